//! The core must stay a pure function of its inputs, or the simulator proves nothing: no sockets, files, clocks,
//! threads, randomness, and no order that depends on a hash.

use std::{fs, path::Path};

/// What must not appear in the core's code, and why.
const FORBIDDEN: [(&str, &str); 16] = [
    ("HashMap", "its order depends on a random seed; use a BTreeMap or a slab"),
    ("HashSet", "its order depends on a random seed; use a BTreeSet"),
    ("std::net", "sockets belong to the driver"),
    ("std::fs", "files belong to the driver"),
    ("std::io", "input and output belong to the driver"),
    ("std::os", "the operating system belongs to the driver"),
    ("std::env", "the environment belongs to the driver"),
    ("std::process", "processes belong to the driver"),
    ("std::thread", "one owner, one thread"),
    ("std::sync", "one owner, one thread"),
    ("thread_local", "one owner, one thread"),
    ("Instant", "time comes in as a Timestamp"),
    ("SystemTime", "time comes in as a Timestamp"),
    ("tokio", "runtimes belong to the driver"),
    ("rand::", "randomness comes in as RunInfo::entropy"),
    ("getrandom", "randomness comes in as RunInfo::entropy"),
];

fn check(folder: &Path, found: &mut Vec<String>, files: &mut usize) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            check(&path, found, files);
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        *files += 1;
        let text = fs::read_to_string(&path).expect("readable");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (word, why) in FORBIDDEN {
                if code.contains(word) {
                    found.push(format!("{}:{}: {word}: {why}", path.display(), number + 1));
                }
            }
        }
    }
}

#[test]
fn the_core_touches_nothing_but_its_inputs() {
    let (mut found, mut files) = (Vec::new(), 0);
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found, &mut files);
    assert!(files > 20, "the sources were found");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_core_depends_on_nothing_that_could_do_it_for_it() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("readable");
    let dependencies = manifest.split("[dependencies]").nth(1).expect("there are some");
    let dependencies = dependencies.split("[dev-dependencies]").next().expect("before those of tests");
    let names: Vec<&str> = dependencies
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('['))
        .collect();
    assert_eq!(names, ["bytes", "crc32fast", "thiserror", "xxhash-rust"]);
}
