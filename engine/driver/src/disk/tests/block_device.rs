//! A block device as disk: a loop device on a temporary file. Needs root, as everything that sets up devices.

use super::*;

/// A loop device on a file of `size` bytes. Detached on drop.
struct LoopDevice {
    path: PathBuf,
    folder: tempfile::TempDir,
}

fn losetup(arguments: &[&str]) -> String {
    let output = Command::new("losetup").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("losetup (Debian package mount): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "losetup {arguments:?} failed; this test needs root and the kernel's loop driver: {errors}"
    );
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

impl LoopDevice {
    fn new(size: u64) -> Self {
        let folder = folder();
        let file = folder.path().join("backing");
        fs::File::create_new(&file).and_then(|file| file.set_len(size)).expect("a backing file");
        let path = losetup(&["--find", "--show", file.to_str().expect("plain")]);
        Self { path: path.into(), folder }
    }

    /// What it lies on, and then the device.
    fn grow(&self, size: u64) {
        let backing = fs::OpenOptions::new().write(true).open(self.folder.path().join("backing"));
        backing.and_then(|file| file.set_len(size)).expect("it grows");
        losetup(&["--set-capacity", self.path.to_str().expect("plain")]);
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Not losetup(): a panic here would hide the one that may be under way.
        if let Err(error) = Command::new("losetup").arg("--detach").arg(&self.path).status() {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}

#[test]
fn a_block_device_is_read_written_zeroed_trimmed_and_synced() {
    let device = LoopDevice::new(SIZE);
    for backend in BACKENDS {
        run(async {
            let file = DiskFile::open(&options(&device.path, Some(SIZE))).expect("root may");
            let shape = file.shape().clone();
            assert_eq!((shape.kind, file.size_bytes(), shape.direct), (DiskKind::BlockDevice, SIZE, true));
            assert!(
                shape.can_punch && shape.can_zero_keep,
                "a loop device on a sparse file zeroes by command"
            );
            let disk = open(file, backend).expect("this machine has both");
            let pool = BufferPool::new(64 << 20);
            let seed = if backend == Backend::IoUring { 3 } else { 4 };
            let mut model = vec![0; 1 << 20];
            let content = pattern(&pool, 512 << 10, seed);
            model[..512 << 10].copy_from_slice(&content);
            let clear = DiskOp::Zero { span: Span::new(0, SIZE), zeroing: Zeroing::Punch };
            perform(&*disk, clear).await.expect("trimmed");
            let write = DiskOp::Write { offset: 0, data: content, durable: false };
            perform(&*disk, write).await.expect("written");
            let unit = shape.zero_bytes;
            for (offset, zeroing) in [(unit * 8, Zeroing::Punch), (unit * 64, Zeroing::Keep)] {
                let span = Span::new(offset, unit * 3);
                perform(&*disk, DiskOp::Zero { span, zeroing }).await.expect("zeroed");
                let [start, end] = [span.start, span.end].map(|at| usize::try_from(at).expect("small"));
                model[start..end].fill(0);
            }
            let durable =
                DiskOp::Write { offset: SIZE - 4096, data: pattern(&pool, 4096, seed), durable: true };
            perform(&*disk, durable).await.expect("written");
            model[(1 << 20) - 4096..].copy_from_slice(&pattern(&pool, 4096, seed));
            perform(&*disk, DiskOp::Sync).await.expect("synced");
            assert!(data(perform(&*disk, read_op(&pool, 0, 1 << 20)).await) == model, "{backend}");
            let map = DiskOp::Map { span: Span::new(0, SIZE), limit: 9 };
            let Ok(DiskReply::Extents(extents)) = perform(&*disk, map).await else { panic!("a map") };
            assert_eq!(extents, [DiskExtent { len: SIZE, hole: false }], "devices tell nothing about holes");
        });
    }
}

#[test]
fn a_block_device_must_have_grown_before_its_disk_does() {
    let device = LoopDevice::new(SIZE);
    for (backend, size) in BACKENDS.into_iter().zip([2 * SIZE, 3 * SIZE]) {
        run(async {
            let file = DiskFile::open(&options(&device.path, None)).expect("root may");
            let disk = open(file, backend).expect("this machine has both");
            let extend = || DiskOp::Extend { size_bytes: size };
            assert_eq!(perform(&*disk, extend()).await.unwrap_err(), DiskError::Os(Errno::NOSPC));
            device.grow(size);
            perform(&*disk, extend()).await.expect("now it has");
            assert_eq!(disk.size_bytes(), size);
            let pool = BufferPool::new(64 << 20);
            let write = DiskOp::Write { offset: size - 4096, data: pattern(&pool, 4096, 7), durable: true };
            perform(&*disk, write).await.expect("written behind the old end");
        });
    }
}

#[test]
fn a_block_device_is_opened_by_one_alone() {
    let device = LoopDevice::new(SIZE);
    let first = DiskFile::open(&options(&device.path, None)).expect("root may");
    let refused = DiskFile::open(&options(&device.path, None)).expect_err("claimed");
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    drop(first);
    let differs = DiskFile::open(&options(&device.path, Some(SIZE * 2))).expect_err("another size");
    assert!(matches!(differs, OpenError::SizeDiffers { .. }), "{differs}");
    DiskFile::open(&options(&device.path, Some(SIZE))).expect("free again");
}
