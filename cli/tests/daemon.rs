//! `evenkeel daemon` and the commands as processes: exit codes, what goes to stdout, what is refused and why. One node
//! is enough for that; several nodes are tested end to end, in the crate `tests`.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A folder with an identity and a configuration of one node.
struct Place {
    folder: TempDir,
    fingerprint: String,
}

/// A daemon that has said that it is ready. Killed on drop.
struct Daemon(Child);

impl Place {
    fn new(volumes: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Self { fingerprint: init(&folder.path().join("state")), folder };
        place.configure(&place.fingerprint, volumes);
        place
    }

    fn configure(&self, fingerprint: &str, volumes: &str) {
        let port =
            UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let text = format!(
            "cluster = \"test\"\n[node.alpha]\naddress = \"{port}\"\nfingerprint = \"{fingerprint}\"\n{volumes}"
        );
        fs::write(self.path("c.toml"), text).expect("written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command with this place's folders, options before it.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = evenkeel(&["--node", "alpha"]);
        command.arg("--config").arg(self.path("c.toml")).arg("--state-dir").arg(self.path("state"));
        command.arg("--run-dir").arg(self.path("run")).args(arguments);
        command
    }

    fn start(&self) -> Daemon {
        let mut command = self.command(&["daemon"]);
        let log = fs::File::create(self.path("log")).expect("a log");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the binary under test");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let daemon = Daemon(child);
        let log = fs::read_to_string(self.path("log")).expect("a log");
        assert_eq!(line, "node alpha is ready\n", "{log}");
        daemon
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().expect("it runs");
        assert!(status.success(), "{arguments:?}: {}", text(&stderr));
        text(&stdout)
    }

    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let Output { status, stderr, .. } = self.command(arguments).output().expect("it runs");
        let errors = text(&stderr);
        assert_eq!(status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        errors
    }
}

impl Daemon {
    fn end(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), signal).expect("it runs");
        self.0.wait().expect("a child").code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn evenkeel(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(arguments).env_remove("EVENKEEL_RUN_DIR").env("RUST_LOG", "info").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn init(state: &Path) -> String {
    let output = evenkeel(&["init", "--state-dir"]).arg(state).output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let digits = printed.strip_prefix("sha256:").and_then(|rest| rest.strip_suffix('\n')).expect("the form");
    assert!(digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{printed}");
    printed.trim_end().to_owned()
}

const ONE_VOLUME: &str = "[volume.r0]\nsize = \"8MiB\"\n";

#[test]
fn init_is_idempotent_and_exact() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = folder.path().join("new/state");
    assert_eq!(init(&state), init(&state));
}

#[test]
fn commands_end_with_the_documented_codes() {
    let place = Place::new(ONE_VOLUME);
    let _daemon = place.start();
    let status = place.ok(&["status", "--json"]);
    for field in
        ["\"schema\":1", "\"node\":\"alpha\"", "\"name\":\"r0\"", "\"size\":8388608", "\"suspended\":null"]
    {
        assert!(status.contains(field), "{field}: {status}");
    }
    place.ok(&["wait", "r0", "--for", "synced"]);
    let late = place.refused(&["wait", "r0", "--for", "primary", "--timeout", "0s"], 1);
    assert!(late.contains("this node is secondary"), "{late}");
    assert_eq!(place.ok(&["primary", "r0"]), "");
    place.ok(&["wait", "r0", "--for", "primary", "--timeout", "0s"]);
    assert_eq!(place.ok(&["primary", "r0"]), "", "on a primary it does nothing");
    let unconfirmed = place.refused(&["secondary", "r0", "--force"], 4);
    assert!(unconfirmed.contains("--yes r0"), "{unconfirmed}");
    let other = place.refused(&["secondary", "r0", "--force", "--yes", "r1"], 4);
    assert!(other.contains("another volume"), "{other}");
    place.ok(&["secondary", "r0", "--force", "--yes", "r0"]);
    let unknown = place.refused(&["status", "nope"], 3);
    assert!(unknown.contains("it has: r0"), "{unknown}");
    for arguments in [&["primary", "nope"][..], &["wait", "nope", "--for", "primary"], &["verify", "nope"]] {
        place.refused(arguments, 3);
    }
    assert!(place.ok(&["status"]).contains("r0  8 MiB  secondary  UpToDate  protocol C"));
    assert_eq!(place.ok(&["volume", "list"]), "r0  8 MiB  secondary  UpToDate\n");
    let events = place.ok(&["events", "--json"]);
    assert!(events.lines().count() > 2 && events.starts_with("{\"number\":1,"), "{events}");
    let rest = place.ok(&["events", "--json", "--since", "1"]);
    assert!(rest.starts_with("{\"number\":2,"), "{rest}");
    assert_eq!(place.ok(&["reload"]), "nothing has changed\n");
    place.refused(&["wait", "r0", "--for", "lunch"], 2);
}

#[test]
fn a_second_daemon_is_refused_and_a_killed_one_replaced() {
    let place = Place::new(ONE_VOLUME);
    let daemon = place.start();
    let refused = place.refused(&["daemon"], 4);
    assert!(refused.contains("in use") && refused.contains(&daemon.0.id().to_string()), "{refused}");
    assert_eq!(daemon.end(Signal::KILL), None);
    let unreachable = place.refused(&["status"], 5);
    assert!(unreachable.contains("admin.sock"), "{unreachable}");
    let daemon = place.start();
    place.ok(&["status"]);
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    assert!(!place.path("run/admin.sock").exists(), "sockets go with the daemon");
    assert_eq!(place.start().end(Signal::INT), Some(0));
}

#[test]
fn configuration_and_identity_must_be_right() {
    let place = Place::new("[volume.r0]\nsize = \"8MiB\"\nprotocl = \"C\"\n");
    let refused = place.refused(&["daemon"], 2);
    assert!(refused.contains("c.toml:7: unknown key protocl"), "{refused}");
    let other = format!("sha256:{}", "0".repeat(64));
    place.configure(&other, ONE_VOLUME);
    let refused = place.refused(&["daemon"], 2);
    assert!(refused.contains(&other) && refused.contains(&place.fingerprint), "both are named: {refused}");
    place.configure(&place.fingerprint, ONE_VOLUME);
    fs::remove_dir_all(place.path("state")).expect("removed");
    let refused = place.refused(&["daemon"], 2);
    assert!(refused.contains("evenkeel init"), "{refused}");
    let refused = place.refused(&["daemon", "--node", "gamma"], 2);
    assert!(refused.contains("alpha"), "{refused}");
}

#[test]
fn a_changed_configuration_is_taken_whole_or_not_at_all() {
    let place = Place::new(ONE_VOLUME);
    let text = fs::read_to_string(place.path("c.toml")).expect("it is there");
    let _daemon = place.start();
    fs::write(place.path("c.toml"), format!("{text}hold = \"nonsense\"\n")).expect("written");
    let refused = place.refused(&["reload"], 2);
    assert!(refused.contains("nothing was changed") && refused.contains("c.toml:7:"), "{refused}");
    fs::write(place.path("c.toml"), format!("{text}[volume.r1]\nsize = \"1MiB\"\n")).expect("written");
    let changed = place.ok(&["reload"]);
    assert!(changed.contains("r1"), "{changed}");
    assert!(place.ok(&["volume", "list"]).contains("r1  1 MiB"));
}

#[test]
fn metadata_are_shown_and_checked_without_a_daemon() {
    let place = Place::new(ONE_VOLUME);
    let meta = place.path("state/r0.meta");
    let path = meta.to_str().expect("temporary names are plain");
    place.refused(&["meta", "check", path], 3);
    let daemon = place.start();
    place.refused(&["meta", "check", path], 4);
    assert_eq!(daemon.end(Signal::TERM), Some(0));
    assert_eq!(place.ok(&["meta", "check", path]), format!("{path}: whole\n"));
    assert!(place.ok(&["meta", "dump", path]).contains("8388608 bytes"));
    let mut bytes = fs::read(&meta).expect("readable");
    bytes[100] ^= 1;
    fs::write(&meta, bytes).expect("written");
    assert!(place.refused(&["meta", "check", path], 1).contains("superblock"));
}

#[test]
fn shells_get_their_completions() {
    let output = evenkeel(&["completions", "bash"]).output().expect("it runs");
    assert!(output.status.success() && text(&output.stdout).contains("_evenkeel()"));
}
