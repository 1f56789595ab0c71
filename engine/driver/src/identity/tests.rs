//! An identity is made once, loaded as often as one likes, and refused when its files are not what they were.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::*;

fn made() -> (tempfile::TempDir, PathBuf, Fingerprint) {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state/alpha");
    let fingerprint = Identity::load_or_create(&state).expect("made").fingerprint();
    (folder, state, fingerprint)
}

fn load(state: &Path) -> Result<Fingerprint, String> {
    let loaded =
        Identity::load(state).map(|identity| identity.fingerprint()).map_err(|error| error.to_string());
    let again = Identity::load_or_create(state)
        .map(|identity| identity.fingerprint())
        .map_err(|error| error.to_string());
    assert_eq!(loaded, again, "what exists is not made anew");
    loaded
}

#[test]
fn made_once_and_the_same_ever_after() {
    let (_folder, state, fingerprint) = made();
    assert_eq!(load(&state), Ok(fingerprint));
    let mode = |file| fs::metadata(state.join(file)).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(KEY_FILE), mode(CERTIFICATE_FILE)), (0o600, 0o644));
    let names: Vec<_> =
        fs::read_dir(&state).expect("there").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(names.len(), 2, "no draft stays: {names:?}");
}

#[test]
fn two_that_make_it_at_once_agree() {
    let folder = tempfile::tempdir().expect("a folder");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let state = folder.path().to_owned();
            std::thread::spawn(move || Identity::load_or_create(&state).expect("made").fingerprint())
        })
        .collect();
    let found: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
    assert!(found.iter().all(|fingerprint| *fingerprint == found[0]), "{found:?}");
}

#[test]
fn the_certificate_carries_the_key_that_is_pinned() {
    let (_folder, state, fingerprint) = made();
    let identity = Identity::load(&state).expect("loaded");
    assert_eq!(Fingerprint::of_certificate(&identity.certificate()), Ok(fingerprint));
    fs::remove_file(state.join(CERTIFICATE_FILE)).expect("removed");
    assert_eq!(load(&state), Ok(fingerprint), "a certificate made anew changes nothing");
    assert!(state.join(CERTIFICATE_FILE).exists());
}

#[test]
fn nothing_there_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Identity::load(folder.path()).expect_err("nothing there").to_string();
    assert!(error.contains("node.key") && error.contains("evenkeel init"), "{error}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let (_folder, state, _) = made();
    for mode in [0o640, 0o604, 0o620, 0o601] {
        fs::set_permissions(state.join(KEY_FILE), fs::Permissions::from_mode(mode)).expect("set");
        let error = load(&state).expect_err("refused");
        assert!(error.contains(&format!("{mode:03o}")) && error.contains("chmod 600"), "{error}");
    }
}

#[test]
fn damaged_files_are_refused_and_kept() {
    let (_folder, state, _) = made();
    for file in [KEY_FILE, CERTIFICATE_FILE] {
        let good = fs::read(state.join(file)).expect("read");
        let middle = good.len() / 2;
        let mut inverted = good.clone();
        inverted[middle] = b'!';
        for bad in [&good[..middle], b"", b"\xff\xfe", &inverted] {
            fs::write(state.join(file), bad).expect("written");
            let error = load(&state).expect_err("refused");
            assert!(error.contains(file), "{error}");
            assert_eq!(fs::read(state.join(file)).expect("read"), bad, "nobody wrote over it");
        }
        fs::write(state.join(file), good).expect("written");
    }
}

#[test]
fn a_certificate_without_its_key_and_one_of_another_key_are_refused() {
    let (_folder, state, fingerprint) = made();
    let (_other_folder, other, found) = made();
    fs::copy(other.join(CERTIFICATE_FILE), state.join(CERTIFICATE_FILE)).expect("copied");
    let error = load(&state).expect_err("refused");
    assert!(error.contains(&fingerprint.to_string()) && error.contains(&found.to_string()), "{error}");
    fs::remove_file(state.join(KEY_FILE)).expect("removed");
    let error = load(&state).expect_err("refused");
    assert!(error.contains("put the key back"), "{error}");
    assert!(!state.join(KEY_FILE).exists());
}

#[test]
fn the_key_is_not_shown() {
    let identity = Identity::ephemeral().expect("made");
    assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.fingerprint()));
}
