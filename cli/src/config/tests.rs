//! Every fault of a configuration with its line, what is wrong and what mends it; and what is taken.

use std::{path::Path, time::Duration};

use evenkeel_core::volume::config::{OnPeerLoss, Protocol};

use super::Config;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Ten lines that stand before every case, so that its first line is 11.
fn nodes() -> String {
    format!(
        "# line 1\ncluster = \"demo\"\n[node.alpha]\naddress = \"127.0.0.1:7801\"\nfingerprint = \"{A}\"\n\
         [node.beta]\naddress = \"127.0.0.1:7802\"\nfingerprint = \"{B}\"\n\n# line 10\n"
    )
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("/etc/x.toml"), text).map_err(|error| error.to_string())
}

fn refusal(text: &str) -> String {
    parse(text).expect_err(text)
}

#[test]
fn the_example_of_the_design_is_taken() {
    let text = nodes().replace("# line 10", "nbd = \"tcp:127.0.0.1:10809\"")
        + r#"
[volume.r0]
size = "1GiB"
protocol = "A"
on_peer_loss = "suspend"
peer_timeout = "3s"
hold = "60s"
max_lag = "64MiB"
al_extent = "8MiB"
block_size = "16KiB"
resync_limit = "50MiB/s"
[volume.r0.on.alpha]
data = "/srv/alpha/r0.img"
meta = "/srv/alpha/r0.meta"
[volume.r0.on.beta]
data = "/srv/beta/r0.img"
[volume.small]
size = 1048576
[volume.elsewhere]
size = "1GiB"
[volume.elsewhere.on.beta]
"#;
    let config = parse(&text).expect("it is good");
    assert_eq!(config.cluster, "demo");
    let alpha = config.own(Path::new("f"), "alpha", Path::new("/state")).expect("it is there");
    assert_eq!(alpha.node.address.to_string(), "127.0.0.1:7801");
    assert_eq!(alpha.peers["beta"].nbd.map(|nbd| nbd.to_string()), Some("127.0.0.1:10809".to_owned()));
    assert_eq!(alpha.volumes.keys().collect::<Vec<_>>(), ["r0", "small"]);

    let r0 = &alpha.volumes["r0"];
    assert_eq!(
        (r0.data.as_path(), r0.meta.as_path()),
        (Path::new("/srv/alpha/r0.img"), Path::new("/srv/alpha/r0.meta"))
    );
    assert_eq!(r0.peers, ["beta"]);
    let volume = &r0.volume;
    assert_eq!((volume.protocol, volume.on_peer_loss), (Protocol::A, OnPeerLoss::Suspend));
    assert_eq!((volume.peer_timeout, volume.hold), (Duration::from_secs(3), Duration::from_secs(60)));
    assert_eq!((volume.max_lag.0, volume.resync_limit.0), (64 << 20, Some(50 << 20)));
    let geometry = &volume.geometry;
    assert_eq!(
        (geometry.size_bytes(), geometry.block_bytes(), geometry.extent_bytes()),
        (1 << 30, 16 << 10, 8 << 20)
    );

    let small = &alpha.volumes["small"];
    assert_eq!(
        (small.data.as_path(), small.meta.as_path()),
        (Path::new("/state/small.img"), Path::new("/state/small.meta"))
    );
    assert_eq!((small.volume.protocol, small.volume.on_peer_loss), (Protocol::C, OnPeerLoss::Continue));
    assert_eq!(
        (small.volume.peer_timeout, small.volume.hold),
        (Duration::from_secs(5), Duration::from_secs(120))
    );
    assert_eq!((small.volume.max_lag.0, small.volume.resync_limit.0), (64 << 20, None));
    assert_eq!(small.volume.geometry.size_bytes(), 1 << 20);

    let beta = config.own(Path::new("f"), "beta", Path::new("/state")).expect("it is there");
    assert_eq!(beta.volumes["r0"].meta, Path::new("/state/r0.meta"));
    assert!(beta.volumes["elsewhere"].peers.is_empty());
}

#[test]
fn every_fault_names_its_line_and_the_remedy() {
    // What follows the ten lines above; the line at which the fault is; words of the message.
    let cases: &[(&str, usize, &[&str])] = &[
        ("colour = 1", 11, &["unknown key colour", "[node.beta]", "address, fingerprint, nbd"]),
        ("[colour]", 11, &["unknown key colour", "here can stand: cluster, node, volume"]),
        (
            "[volume.r0]\nsize = \"1GiB\"\nprotocl = \"C\"",
            13,
            &["unknown key protocl", "[volume.r0]", "protocol"],
        ),
        (
            "[volume.r0]\nsize = \"1GiB\"\n[volume.r0.on.alpha]\ndate = \"/x\"",
            14,
            &["unknown key date", "data, meta"],
        ),
        (
            "[node.gamma]\naddress = \"127.0.0.1:1\"\nfingerprint = \"sha256:cc\"",
            13,
            &["no fingerprint", "64 hex digits", "evenkeel init"],
        ),
        (
            "[node.gamma]\naddress = \"127.0.0.1:1\"",
            11,
            &["[node.gamma] has no fingerprint", "evenkeel init"],
        ),
        ("[node.gamma]\nfingerprint = \"NEW-KEY\"", 11, &["[node.gamma] has no address", "address ="]),
        (
            "[node.gamma]\naddress = \"gamma\"\nfingerprint = \"NEW-KEY\"",
            12,
            &["\"gamma\" is not an address", "192.0.2.1:7801"],
        ),
        (
            "[node.gamma]\naddress = \"0.0.0.0:7801\"\nfingerprint = \"NEW-KEY\"",
            12,
            &["at which peers reach this node"],
        ),
        (
            "[node.gamma]\naddress = \"127.0.0.1:0\"\nfingerprint = \"NEW-KEY\"",
            12,
            &["at which peers reach this node"],
        ),
        (
            "[node.gamma]\naddress = \"127.0.0.1:7802\"\nfingerprint = \"NEW-KEY\"",
            12,
            &["node beta has the address 127.0.0.1:7802 too"],
        ),
        (
            "[node.gamma]\naddress = \"127.0.0.1:1\"\nfingerprint = \"KEY-OF-ALPHA\"",
            13,
            &["node alpha has this fingerprint too", "evenkeel init"],
        ),
        (
            "[node.gamma]\naddress = 7801\nfingerprint = \"NEW-KEY\"",
            12,
            &["address must be a text in quotes", "an integer"],
        ),
        (
            "[node.gamma]\naddress = \"127.0.0.1:1\"\nfingerprint = \"NEW-KEY\"\nnbd = \"127.0.0.1:10809\"",
            14,
            &["nbd", "tcp:127.0.0.1:10809"],
        ),
        (
            "[node.gamma]\naddress = \"127.0.0.1:1\"\nfingerprint = \"NEW-KEY\"\nnbd = \"tcp:somewhere\"",
            14,
            &["nbd", "not an address"],
        ),
        (
            "[node.gamma]\naddress = \"127.0.0.1:1\"\nfingerprint = \"NEW-KEY\"\nnbd = \"tcp:192.0.2.1:10809\"",
            14,
            &["not encrypted", "loopback", "tcp:127.0.0.1:10809"],
        ),
        ("[node.alpha]", 11, &["duplicate key", "TOML"]),
        (
            "[node.\"a b\"]\naddress = \"127.0.0.1:1\"\nfingerprint = \"NEW-KEY\"",
            11,
            &["node name \"a b\"", "letters"],
        ),
        ("[volume.-r]\nsize = \"1GiB\"", 11, &["volume name \"-r\"", "letter or digit first"]),
        ("[volume.\"\"]\nsize = \"1GiB\"", 11, &["volume name \"\""]),
        ("[[volume]]", 11, &["volume must be written as tables: [volume.NAME]"]),
        ("[volume]\nr0 = 5", 12, &["r0 is not a table", "[volume.r0]"]),
        ("[volume.r0]", 11, &["[volume.r0] has no size", "size = \"1GiB\""]),
        ("[volume.r0]\nsize = \"12 apples\"", 12, &["size", "not a size", "64MiB"]),
        ("[volume.r0]\nsize = -1", 12, &["size", "not a number of bytes"]),
        ("[volume.r0]\nsize = 1.5", 12, &["size must be a text in quotes", "a float"]),
        ("[volume.r0]\nsize = 1000", 12, &["1000 bytes", "multiple of 512"]),
        ("[volume.r0]\nsize = \"2048TiB\"", 12, &["at most 1125899906842624 bytes"]),
        (
            "[volume.r0]\nsize = \"1GiB\"\nprotocol = \"D\"",
            13,
            &["protocol = \"D\"", "\"A\" or \"B\" or \"C\""],
        ),
        (
            "[volume.r0]\nsize = \"1GiB\"\non_peer_loss = \"panic\"",
            13,
            &["on_peer_loss", "\"continue\" or \"suspend\""],
        ),
        ("[volume.r0]\nsize = \"1GiB\"\npeer_timeout = \"5\"", 13, &["peer_timeout", "not a duration", "5s"]),
        (
            "[volume.r0]\nsize = \"1GiB\"\npeer_timeout = \"100ms\"",
            13,
            &["peer_timeout = 100ms", "2s to 10m"],
        ),
        ("[volume.r0]\nsize = \"1GiB\"\npeer_timeout = \"1h\"", 13, &["peer_timeout = 1h", "2s to 10m"]),
        ("[volume.r0]\nsize = \"1GiB\"\nhold = \"999ms\"", 13, &["hold = 999ms", "1s to 24h"]),
        ("[volume.r0]\nsize = \"1GiB\"\nmax_lag = \"4KiB\"", 13, &["max_lag = 4 KiB", "at least 1 MiB"]),
        ("[volume.r0]\nsize = \"1GiB\"\nal_extent = \"3MiB\"", 13, &["al_extent 3145728", "power of two"]),
        ("[volume.r0]\nsize = \"1GiB\"\nal_extent = \"8GiB\"", 13, &["al_extent", "power of two"]),
        (
            "[volume.r0]\nsize = \"1GiB\"\nblock_size = \"512\"",
            13,
            &["block_size 512", "power of two from 4096"],
        ),
        (
            "[volume.r0]\nsize = \"1GiB\"\nblock_size = \"1MiB\"\nal_extent = \"64KiB\"",
            14,
            &["not below block_size"],
        ),
        ("[volume.r0]\nsize = \"1GiB\"\nresync_limit = \"fast\"", 13, &["resync_limit", "50MiB/s"]),
        (
            "[volume.r0]\nsize = \"1GiB\"\n[volume.r0.on.gamma]",
            13,
            &["there is no node gamma", "alpha, beta"],
        ),
        (
            "[volume.r0]\nsize = \"1GiB\"\n[volume.r0.on.alpha]\ndata = \"r0.img\"",
            14,
            &["data = \"r0.img\"", "begins with /"],
        ),
        (
            "[volume.r0]\nsize = \"1GiB\"\n[volume.r0.on.alpha]\ndata = \"/x\"\nmeta = \"/./x\"",
            15,
            &["/./x is already data of volume r0 on alpha"],
        ),
        (
            "[volume.r0]\nsize = \"1GiB\"\n[volume.r0.on.alpha]\ndata = \"/x\"\n[volume.r1]\nsize = \"1GiB\"\n[volume.r1.on.alpha]\nmeta = \"/x\"",
            18,
            &["/x is already data of volume r0"],
        ),
        ("size = \"1GiB", 11, &["TOML"]),
    ];
    let mut wrong = Vec::new();
    for (text, line, words) in cases {
        let new = format!("sha256:{}", "c".repeat(64));
        let text = nodes() + &text.replace("NEW-KEY", &new).replace("KEY-OF-ALPHA", A);
        let refused = refusal(&text);
        let first = refused.lines().next().expect("a line");
        let right_line = first.starts_with(&format!("/etc/x.toml:{line}: "));
        let alone = refused.lines().count() == 1;
        if !right_line || !alone || !words.iter().all(|word| first.contains(word)) {
            wrong.push(format!("expected line {line} and {words:?}:\n{text}\n=> {refused}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn faults_of_the_whole_file_have_no_line() {
    assert_eq!(
        refusal("cluster = \"demo\""),
        "/etc/x.toml: there is no node; add a table [node.NAME] for each machine"
    );
    let missing = refusal("");
    assert!(missing.contains("the file has no cluster; add: cluster = \"NAME\""), "{missing}");
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_the_file() {
    let text = nodes() + "[volume.r0]\nsize = \"x\"\nprotocol = \"D\"\ncolour = 1";
    let refused = refusal(&text);
    let lines: Vec<_> = refused.lines().map(|line| line.split(':').nth(1).expect("a line number")).collect();
    assert_eq!(lines, ["12", "13", "14"]);
}

#[test]
fn a_node_that_is_not_in_the_file_is_told_the_choice() {
    let config = parse(&nodes()).expect("it is good");
    let error = config.own(Path::new("/etc/x.toml"), "gamma", Path::new("/state")).expect_err("unknown");
    let text = error.to_string();
    assert!(text.starts_with("/etc/x.toml: there is no node gamma"), "{text}");
    assert!(text.contains("--node") && text.contains("alpha, beta"), "{text}");
}

#[test]
fn default_paths_are_not_used_twice() {
    let text = nodes()
        + "[volume.r0]\nsize = \"1GiB\"\n[volume.r0.on.alpha]\nmeta = \"/state/r1.img\"\n[volume.r1]\nsize = \"1GiB\"";
    let config = parse(&text).expect("each file alone is good");
    let error = config.own(Path::new("f"), "alpha", Path::new("/state")).expect_err("used twice").to_string();
    assert!(error.contains("/state/r1.img is data of volume r1 and meta of volume r0"), "{error}");
    config.own(Path::new("f"), "alpha", Path::new("/elsewhere")).expect("another folder");
}

#[test]
fn a_volume_has_at_most_eight_nodes() {
    let mut text = "cluster = \"demo\"\n".to_owned();
    for at in 0..9 {
        let digit = format!("{at}").repeat(64);
        text += &format!("[node.n{at}]\naddress = \"127.0.0.1:780{at}\"\nfingerprint = \"sha256:{digit}\"\n");
    }
    text += "[volume.r0]\nsize = \"1GiB\"\n";
    let refused = refusal(&text);
    assert!(
        refused.contains("on 9 nodes; at most 8") && refused.contains("[volume.r0.on.NODE]"),
        "{refused}"
    );
    parse(&(text + "[volume.r0.on.n0]\n[volume.r0.on.n1]")).expect("two of nine");
}

#[test]
fn a_file_that_cannot_be_read_or_is_no_configuration_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("evenkeel.toml");
    let refusal = || Config::load(&file).expect_err("refused").to_string();
    assert!(refusal().contains("--config"), "{}", refusal());
    std::fs::write(&file, [0xff, 0xfe]).expect("written");
    assert!(refusal().contains("cannot be read"), "{}", refusal());
    std::fs::write(&file, vec![b'#'; 2 << 20]).expect("written");
    assert!(refusal().contains("larger than"), "{}", refusal());
}
