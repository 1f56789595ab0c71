//! A real filesystem on the export: the kernel's ext4 writes to it (`tests/src/kernel.rs`).

use std::fs;

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    kernel::{Fuse, Loop, Mount, as_root, check_clean},
    serve::{ServeOptions, Server},
    tools::run,
};

use crate::image::Random;

const SIZE: u64 = 96 << 20;

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

    let fuse = Fuse::mount(&server.uri(), server.folder())?;
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
    let fuse = Fuse::mount(&server.uri(), server.folder())?;
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
