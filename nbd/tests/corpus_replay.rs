//! Replays the committed fuzz corpus: what a fuzzer once found interesting stays tested, without nightly.

use std::{fs, path::Path};

use evenkeel_nbd::fuzzing::{raw, structured};

/// Runs `target` on each file of its corpus; returns how many there were.
fn replay(name: &str, target: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("the folder can be listed").path();
        let data = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        eprintln!("{}", path.display());
        target(&data);
        count += 1;
    }
    count
}

#[test]
fn raw_corpus() {
    assert!(replay("nbd_raw", raw) >= 10, "the corpus is missing");
}

#[test]
fn structured_corpus() {
    assert!(replay("nbd_structured", structured) >= 10, "the corpus is missing");
}
