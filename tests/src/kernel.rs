//! A kernel above an NBD export without its nbd module: nbdfuse shows the export as a file, a loop device makes it a
//! block device, ext4 is mounted on it. Everything is undone when dropped, also by a test that fails.

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::tools::{run, tool, wait_for_exit, wait_until};

/// A program that needs root: through `sudo -n` where the test is not root already.
///
/// # Errors
/// It is not installed.
pub fn as_root(name: &str) -> Result<Command> {
    let program = tool(name)?;
    if rustix::process::geteuid().is_root() {
        return Ok(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("-n").arg(program.get_program());
    Ok(sudo)
}

/// The export as a file, by nbdfuse. Unmounted when dropped.
#[derive(Debug)]
pub struct Fuse {
    process: Child,
    mountpoint: PathBuf,
}

impl Fuse {
    /// Mounts the export of an NBD URI in `folder`.
    ///
    /// # Errors
    /// No /dev/fuse, or the export cannot be opened.
    pub fn mount(uri: &str, folder: &Path) -> Result<Self> {
        ensure!(
            Path::new("/dev/fuse").exists(),
            "/dev/fuse is missing: the kernel's fuse module must be loaded"
        );
        let mountpoint = folder.join("fuse");
        fs::create_dir_all(&mountpoint)?;
        let log = fs::File::create(folder.join("nbdfuse.log"))?;
        let mut nbdfuse = as_root("nbdfuse")?;
        nbdfuse.arg(&mountpoint).arg(uri).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = nbdfuse.spawn().context("nbdfuse")?;
        let fuse = Self { process, mountpoint };
        let mounted = || {
            run(as_root("stat").unwrap_or_else(|e| panic!("{e:#}")).arg(fuse.file()))
                .is_ok_and(|output| output.status.success())
        };
        wait_until("nbdfuse shows the export as a file", Duration::from_secs(30), mounted)?;
        Ok(fuse)
    }

    /// The file that is the export.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.mountpoint.join("nbd")
    }

    /// Unmounts and waits until nbdfuse has flushed and left.
    ///
    /// # Errors
    /// It is in use, or nbdfuse met an error.
    pub fn unmount(mut self) -> Result<()> {
        // The kernel lets a loop device go only after `losetup -d` has ended, when nobody has it open any more.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let ended = run(as_root("fusermount3")?.arg("-u").arg(&self.mountpoint))?.success();
            if ended.is_ok() || Instant::now() > deadline {
                ended?;
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = wait_for_exit(&mut self.process, Duration::from_secs(30))?;
        ensure!(status.is_some_and(|status| status.success()), "nbdfuse ended with {status:?}");
        Ok(())
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // Nothing must stay mounted, also when nbdfuse ended with its server. Fails if it is unmounted already.
        let _ = as_root("fusermount3").and_then(|mut c| run(c.arg("-uz").arg(&self.mountpoint)));
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// A loop device on a file. Detached when dropped.
#[derive(Debug)]
pub struct Loop {
    /// Its path below /dev.
    pub device: PathBuf,
}

impl Loop {
    /// Makes a block device of a file.
    ///
    /// # Errors
    /// The kernel has none for us.
    pub fn attach(file: &Path) -> Result<Self> {
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

    /// Detaches.
    ///
    /// # Errors
    /// It is in use.
    pub fn detach(self) -> Result<()> {
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
#[derive(Debug)]
pub struct Mount {
    /// Where.
    pub folder: PathBuf,
}

impl Mount {
    /// Mounts an ext4.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn ext4(device: &Path, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        run(as_root("mount")?.args(["-t", "ext4"]).arg(device).arg(&folder))?.success()?;
        Ok(Self { folder })
    }

    /// Unmounts.
    ///
    /// # Errors
    /// It is in use.
    pub fn unmount(self) -> Result<()> {
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

/// `e2fsck -f -n`: a full check that changes nothing.
///
/// # Errors
/// It found something.
pub fn check_clean(filesystem: &Path) -> Result<()> {
    let report = run(as_root("e2fsck")?.args(["-f", "-n"]).arg(filesystem))?.success()?;
    ensure!(report.contains("Pass 5"), "e2fsck did not come to its end: {report}");
    Ok(())
}
