//! A real filesystem on the export: nbdfuse shows the export as a file, a loop device makes it a block
//! device, the kernel's ext4 writes to it. This is how a test gets a kernel above us without the nbd module.

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    serve::{ServeOptions, Server},
    tools::{run, tool, wait_for_exit, wait_until},
};

use crate::image::Random;

const SIZE: u64 = 96 << 20;

/// A program that needs root: through `sudo -n` where the test is not root already.
fn as_root(name: &str) -> Result<Command> {
    let program = tool(name)?;
    if rustix::process::geteuid().is_root() {
        return Ok(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("-n").arg(program.get_program());
    Ok(sudo)
}

/// The export as a file, by nbdfuse. Unmounted when dropped.
struct Fuse {
    process: Child,
    mountpoint: PathBuf,
}

impl Fuse {
    fn mount(server: &Server) -> Result<Self> {
        ensure!(
            Path::new("/dev/fuse").exists(),
            "/dev/fuse is missing: the kernel's fuse module must be loaded"
        );
        let mountpoint = server.folder().join("fuse");
        fs::create_dir_all(&mountpoint)?;
        let log = fs::File::create(server.folder().join("nbdfuse.log"))?;
        let mut nbdfuse = as_root("nbdfuse")?;
        nbdfuse.arg(&mountpoint).arg(server.uri()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = nbdfuse.spawn().context("nbdfuse")?;
        let fuse = Self { process, mountpoint };
        let mounted = || {
            run(as_root("stat").unwrap_or_else(|e| panic!("{e:#}")).arg(fuse.file()))
                .is_ok_and(|output| output.status.success())
        };
        wait_until("nbdfuse shows the export as a file", Duration::from_secs(30), mounted)?;
        Ok(fuse)
    }

    fn file(&self) -> PathBuf {
        self.mountpoint.join("nbd")
    }

    /// Unmounts and waits until nbdfuse has flushed and left.
    fn unmount(mut self) -> Result<()> {
        run(as_root("fusermount3")?.arg("-u").arg(&self.mountpoint))?.success()?;
        let status = wait_for_exit(&mut self.process, Duration::from_secs(30))?;
        ensure!(status.is_some_and(|status| status.success()), "nbdfuse ended with {status:?}");
        Ok(())
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            // Best effort after a failed test: nothing must stay mounted.
            let _ = as_root("fusermount3").and_then(|mut c| run(c.arg("-uz").arg(&self.mountpoint)));
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// A loop device on a file. Detached when dropped.
struct Loop {
    device: PathBuf,
}

impl Loop {
    fn attach(file: &Path) -> Result<Self> {
        let free = run(as_root("losetup")?.arg("-f"))?
            .success()
            .context("this machine gives us no loop device (is the kernel's loop module there?)")?;
        let device = PathBuf::from(free.trim());
        if !fs::metadata(&device).is_ok_and(|meta| meta.file_type().is_block_device()) {
            // In a container the kernel has the device but /dev may lack its node.
            let minor = free.trim().trim_start_matches("/dev/loop");
            run(as_root("mknod")?.arg(&device).args(["b", "7", minor]))?.success()?;
        }
        let shown = run(as_root("losetup")?.args(["-f", "--show"]).arg(file))?.success()?;
        Ok(Self { device: PathBuf::from(shown.trim()) })
    }

    fn detach(self) -> Result<()> {
        run(as_root("losetup")?.arg("-d").arg(&self.device))?.success()?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = as_root("losetup").and_then(|mut c| run(c.arg("-d").arg(&self.device)));
    }
}

/// A mounted filesystem. Unmounted when dropped.
struct Mount {
    folder: PathBuf,
}

impl Mount {
    fn ext4(device: &Path, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        run(as_root("mount")?.args(["-t", "ext4"]).arg(device).arg(&folder))?.success()?;
        Ok(Self { folder })
    }

    fn unmount(self) -> Result<()> {
        run(as_root("umount")?.arg(&self.folder))?.success()?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = as_root("umount").and_then(|mut c| run(c.arg("-l").arg(&self.folder)));
    }
}

/// Small, large and deleted files; the same for the same `generation`.
fn files(generation: u64) -> Vec<(String, Vec<u8>)> {
    let mut random = Random::new(generation);
    (0..60_usize).map(|i| (format!("file-{generation}-{i}"), random.bytes(i * i * 150 + 1))).collect()
}

fn write_files(mount: &Mount, generation: u64) -> Result<()> {
    for (name, content) in files(generation) {
        let path = mount.folder.join(&name);
        fs::write(&path, &content).with_context(|| path.display().to_string())?;
        fs::write(mount.folder.join("passing"), &content)?;
    }
    fs::remove_file(mount.folder.join("passing"))?;
    Ok(())
}

fn check_files(mount: &Mount, generation: u64) -> Result<()> {
    for (name, content) in files(generation) {
        let path = mount.folder.join(&name);
        let found = fs::read(&path).with_context(|| path.display().to_string())?;
        ensure!(found == content, "{} does not hold what was written", path.display());
    }
    Ok(())
}

#[test]
fn ext4_keeps_its_files_over_unmount_and_restart() -> Result<()> {
    let mut server = Server::start(ServeOptions { size: SIZE, ..ServeOptions::default() })?;
    let folder = server.folder().join("mnt");

    let fuse = Fuse::mount(&server)?;
    let device = Loop::attach(&fuse.file())?;
    run(as_root("mkfs.ext4")?.args(["-q", "-F"]).arg(&device.device))?.success()?;
    let mount = Mount::ext4(&device.device, folder.clone())?;
    write_files(&mount, 1)?;
    check_files(&mount, 1)?;
    // A flush of the kernel must reach us and come back.
    fs::File::open(mount.folder.join("file-1-59"))?.sync_all()?;
    mount.unmount()?;
    check_clean(&device.device)?;
    device.detach()?;
    fuse.unmount()?;
    server.stop()?;
    // The image is the filesystem: it can be read without us (design rule D1).
    check_clean(server.image())?;

    server.restart()?;
    let fuse = Fuse::mount(&server)?;
    let device = Loop::attach(&fuse.file())?;
    let mount = Mount::ext4(&device.device, folder)?;
    check_files(&mount, 1)?;
    write_files(&mount, 2)?;
    // fstrim goes through as discards, and must not take data with it.
    run(as_root("fstrim")?.arg(&mount.folder))?.success()?;
    mount.unmount()?;
    let mount = Mount::ext4(&device.device, server.folder().join("mnt"))?;
    check_files(&mount, 1)?;
    check_files(&mount, 2)?;
    mount.unmount()?;
    check_clean(&device.device)?;
    device.detach()?;
    fuse.unmount()?;
    server.stop()
}

/// `e2fsck -f -n`: a full check that changes nothing.
fn check_clean(filesystem: &Path) -> Result<()> {
    let report = run(as_root("e2fsck")?.args(["-f", "-n"]).arg(filesystem))?.success()?;
    ensure!(report.contains("Pass 5"), "e2fsck did not come to its end: {report}");
    Ok(())
}
