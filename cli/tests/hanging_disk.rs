//! `evenkeel serve` on a disk that stops answering: SIGTERM ends it all the same (design rule P6).

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// SIGTERM to the end is 10 s by the rule. The rest is for a busy machine, and still far from "for ever".
const LIMIT: Duration = Duration::from_secs(20);

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary names are plain")
}

/// A disk that stops answering: a loop device whose backing file lies on a frozen file system. Thawed and taken
/// apart on drop, or the machine would keep a process that cannot be killed.
struct FrozenDisk {
    mount: PathBuf,
    /// The one under the file system, and the one that hangs.
    devices: Vec<String>,
    _folder: tempfile::TempDir,
}

fn tool(name: &str, package: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).args(arguments).output();
    let Output { status, stdout, stderr } =
        output.unwrap_or_else(|error| panic!("{name} (Debian package {package}): {error}"));
    let errors = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{name} {arguments:?} failed; this test needs root and loop devices: {errors}");
    String::from_utf8(stdout).expect("text").trim().to_owned()
}

impl FrozenDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mount = folder.path().join("mount");
        fs::create_dir(&mount).expect("a folder");
        let mut disk = Self { mount, devices: Vec::new(), _folder: folder };
        let below = disk._folder.path().join("below");
        fs::File::create_new(&below).and_then(|file| file.set_len(64 << 20)).expect("a file");
        tool("mkfs.ext4", "e2fsprogs", &["-q", text(&below)]);
        let device = tool("losetup", "mount", &["--find", "--show", text(&below)]);
        disk.devices.push(device.clone());
        tool("mount", "mount", &[&device, text(&disk.mount)]);
        let image = disk.mount.join("image");
        fs::File::create_new(&image).and_then(|file| file.set_len(16 << 20)).expect("a file");
        let device = tool("losetup", "mount", &["--find", "--show", text(&image)]);
        disk.devices.push(device);
        disk
    }

    fn path(&self) -> &str {
        self.devices.last().expect("two")
    }

    /// Writes that the device has begun and not ended.
    fn in_flight(&self) -> u32 {
        let name = Path::new(self.path()).file_name().expect("a device").display();
        let counts = fs::read_to_string(format!("/sys/block/{name}/inflight")).expect("reads and writes");
        counts.split_whitespace().nth(1).and_then(|writes| writes.parse().ok()).expect("a number")
    }

    fn freeze(&self) {
        tool("fsfreeze", "util-linux", &["--freeze", text(&self.mount)]);
    }
}

impl Drop for FrozenDisk {
    fn drop(&mut self) {
        // Each may have nothing to do; what remains is seen by the next test that wants it.
        let run = |name: &str, arguments: &[&str]| {
            let _ = Command::new(name).args(arguments).stderr(Stdio::null()).status();
        };
        run("fsfreeze", &["--unfreeze", text(&self.mount)]);
        if self.devices.len() == 2 {
            run("losetup", &["--detach", self.path()]);
        }
        run("umount", &["--lazy", text(&self.mount)]);
        run("losetup", &["--detach", &self.devices[0]]);
    }
}

/// A client by hand: fixed newstyle, no zeroes, EXPORT_NAME; then one write of 4 KiB.
fn write_one_block(socket: &Path) -> UnixStream {
    let mut client = UnixStream::connect(socket).expect("it serves");
    client.read_exact(&mut [0; 18]).expect("a greeting");
    let mut script = Vec::new();
    script.extend(3_u32.to_be_bytes());
    script.extend(b"IHAVEOPT");
    script.extend(1_u32.to_be_bytes());
    script.extend(4_u32.to_be_bytes());
    script.extend(b"disk");
    client.write_all(&script).expect("taken");
    client.read_exact(&mut [0; 10]).expect("size and flags");
    let mut script = Vec::new();
    script.extend(0x2560_9513_u32.to_be_bytes());
    script.extend([0, 0, 0, 1]);
    script.extend(7_u64.to_be_bytes());
    script.extend(0_u64.to_be_bytes());
    script.extend(4096_u32.to_be_bytes());
    script.extend([0x55; 4096]);
    client.write_all(&script).expect("taken");
    client
}

#[test]
fn p6_a_disk_that_hangs_does_not_hold_the_end_for_ever() {
    for backend in ["io_uring", "pread"] {
        let disk = FrozenDisk::new();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("nbd.sock");
        let arguments = ["serve", disk.path(), "--socket", text(&socket), "--disk-backend", backend];
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.args(arguments).env("RUST_LOG", "info").stdin(Stdio::null());
        let log = folder.path().join("log");
        command.stdout(Stdio::piped()).stderr(fs::File::create(&log).expect("a log"));
        let mut child = command.spawn().expect("the binary under test");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        assert!(line.contains("serving"), "{}", fs::read_to_string(&log).expect("a log"));

        disk.freeze();
        let client = write_one_block(&socket);
        let begun = Instant::now();
        while disk.in_flight() == 0 {
            assert!(begun.elapsed() < LIMIT, "the write does not reach the disk");
            std::thread::sleep(Duration::from_millis(5));
        }
        let begun = Instant::now();
        kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
        let logged = || fs::read_to_string(&log).expect("a log");
        while !logged().contains("has not finished") && begun.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(20));
        }
        let told = logged();
        // A thread that is inside of a system call ends only with it, and the process with the thread.
        drop(disk);
        let status = child.wait().expect("a child");
        assert!(told.contains("the disk has not finished") && told.contains("FLUSH"), "{told}");
        assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
        assert_eq!(status.code(), Some(6), "{told}");
        drop(client);
    }
}
