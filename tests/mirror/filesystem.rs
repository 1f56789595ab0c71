//! A filesystem on the mirrored volume survives the death of the primary: the same files with the same inode numbers
//! and generations, and file handles made before the failover open after it. That is what NFS clients live on (F46).

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, VolumeSpec},
    kernel::{Fuse, Loop, Mount, as_root, check_clean},
    raw::pattern::{Numbers, pattern},
    tools::{Output, run},
};

const HANDLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/mirror/handles.py");

fn handles(arguments: &[&Path], verb: &str) -> Result<Output> {
    run(as_root("python3")?.arg(HANDLES).arg(verb).args(arguments))
}

/// Files and folders, some deleted and made anew, so that inode generations matter.
fn write_files(root: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut numbers = Numbers::new(46);
    let mut files = Vec::new();
    for index in 0..60 {
        let folder = root.join(format!("folder-{}", index % 7));
        fs::create_dir_all(&folder)?;
        let name = format!("folder-{}/file-{index}", index % 7);
        let path = root.join(&name);
        if index % 3 == 0 {
            fs::write(&path, b"an earlier file, whose inode is used again")?;
            fs::remove_file(&path)?;
        }
        let content = pattern(index, usize::try_from(1 + numbers.below(200_000))?);
        fs::write(&path, &content).with_context(|| path.display().to_string())?;
        fs::File::open(&path)?.sync_all()?;
        files.push((name, content));
    }
    Ok(files)
}

#[test]
fn ext4_fails_over_with_its_inodes_and_file_handles() -> Result<()> {
    let volume = VolumeSpec { size: "128MiB".to_owned(), ..VolumeSpec::default() };
    let options = ClusterOptions { volumes: vec![volume], ..ClusterOptions::default() };
    Cluster::run(options, |cluster| {
        let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;

        let places = ["on-alpha", "on-beta"].map(|name| cluster.folder().join(name));
        for place in &places {
            fs::create_dir_all(place)?;
        }
        let known = cluster.folder().join("handles.json");
        let files;
        {
            let fuse = Fuse::mount(&alpha.uri("r0"), &places[0])?;
            let device = Loop::attach(&fuse.file())?;
            run(as_root("mkfs.ext4")?.args(["-q", "-F"]).arg(&device.device))?.success()?;
            let mount = Mount::ext4(&device.device, places[0].join("mnt"))?;
            files = write_files(&mount.folder)?;
            rustix::fs::syncfs(fs::File::open(&mount.folder)?)?;
            fs::write(&known, handles(&[&mount.folder], "make")?.success()?)?;
            // The machine dies under the mounted filesystem; what is above is torn down in its ruins.
            alpha.kill()?;
        }
        beta.wait_for("r0", "alpha is gone", |status| status.peer("alpha").connection != "connected")?;
        beta.force_primary("r0")?;

        let fuse = Fuse::mount(&beta.uri("r0"), &places[1])?;
        let device = Loop::attach(&fuse.file())?;
        let mount = Mount::ext4(&device.device, places[1].join("mnt"))?;
        for (name, content) in &files {
            let found = fs::read(mount.folder.join(name)).with_context(|| name.clone())?;
            ensure!(found == *content, "{name} does not hold what was written before the failover");
        }
        let before: serde_json::Value = serde_json::from_str(&fs::read_to_string(&known)?)?;
        let opened = handles(&[&mount.folder, &known], "open")?.success()?;
        let opened: serde_json::Value = serde_json::from_str(&opened)?;
        let again: serde_json::Value = serde_json::from_str(&handles(&[&mount.folder], "make")?.success()?)?;
        ensure!(before == again, "handles, inode numbers and generations are the same");
        for (name, _) in &files {
            for field in ["inode", "generation"] {
                ensure!(before[name][field] == opened[name][field], "{name}: {field} behind its handle");
            }
            let real = run(as_root("sha256sum")?.arg(mount.folder.join(name)))?.success()?;
            let hash = opened[name]["sha256"].as_str().context("a hash")?;
            ensure!(real.starts_with(hash), "{name}: its handle opens another content");
        }
        fs::write(mount.folder.join("after"), b"it goes on")?;
        mount.unmount()?;
        check_clean(&device.device)?;
        device.detach()?;
        fuse.unmount()?;

        // The old primary comes back as target, and the filesystem is on it too.
        alpha.start()?;
        beta.wait_synced("r0")?;
        beta.secondary("r0")?;
        for node in [alpha, beta] {
            check_clean(&node.data("r0"))?;
        }
        ensure!(fs::read(alpha.data("r0"))? == fs::read(beta.data("r0"))?, "equal images");
        Ok(())
    })
}
