//! Replays the committed fuzz corpus of frames and metadata: what a fuzzer once found interesting stays tested,
//! without nightly.

use std::{fs, path::Path};

use evenkeel_core::{meta::fuzzing as meta, volume::codec::fuzzing as frame};

/// Runs `target` on each file of its corpus, of which there must be at least `least`.
fn replay(name: &str, least: usize, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("the folder can be listed").path();
        let data = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        eprintln!("{}", path.display());
        target(&data);
        count += 1;
    }
    assert!(count >= least, "{}: only {count} files", folder.display());
}

#[test]
fn frames_raw() {
    replay("frame_raw", 35, frame::raw);
}

#[test]
fn frames_structured() {
    replay("frame_structured", 35, frame::structured);
}

#[test]
fn superblocks() {
    replay("meta_superblocks", 20, meta::superblocks);
}

#[test]
fn activity_logs() {
    replay("meta_activity_logs", 20, meta::activity_logs);
}

#[test]
fn dirty_bitmaps() {
    replay("meta_dirty_bitmaps", 10, meta::dirty_bitmaps);
}

#[test]
fn reports() {
    replay("meta_reports", 20, meta::reports);
}
