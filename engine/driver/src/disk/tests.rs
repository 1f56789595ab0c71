//! Both backends, held against a model and driven into their corners.

use std::{
    fs,
    future::poll_fn,
    os::fd::OwnedFd,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use evenkeel_nbd::buffer::BufferPool;
use proptest::prelude::*;

use super::*;

mod block_device;
mod standstill;

const BACKENDS: [Backend; 2] = [Backend::IoUring, Backend::Threads];
const SIZE: u64 = 1 << 20;

/// Runs `test` on a data thread's runtime.
fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

fn options(path: &Path, size_bytes: Option<u64>) -> OpenOptions {
    OpenOptions { path: path.to_owned(), size_bytes, read_only: false }
}

fn image(folder: &tempfile::TempDir, size: u64) -> DiskFile {
    DiskFile::open(&options(&folder.path().join("disk.img"), Some(size))).expect("a new file")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

async fn collect(disk: &dyn RawDisk, count: usize) -> Vec<DiskCompletion> {
    let mut done = Vec::new();
    while done.len() < count {
        poll_fn(|cx| disk.poll_completions(cx, &mut done)).await;
    }
    assert_eq!(done.len(), count);
    done
}

/// Does one operation alone.
async fn perform(disk: &dyn RawDisk, op: DiskOp) -> Result<DiskReply, DiskError> {
    disk.push(Tag(77), op);
    disk.submit();
    let mut done = collect(disk, 1).await;
    let completion = done.pop().expect("one");
    assert_eq!(completion.tag, Tag(77));
    completion.result
}

fn pattern(pool: &BufferPool, len: usize, seed: u8) -> Bytes {
    let mut buffer = pool.take(len).expect("within the budget");
    for (place, byte) in (0_u8..=255).cycle().zip(&mut buffer.whole()[..len]) {
        *byte = place.wrapping_mul(31).wrapping_add(seed);
    }
    buffer.advance(len);
    buffer.freeze()
}

fn read_op(pool: &BufferPool, offset: u64, len: usize) -> DiskOp {
    DiskOp::Read { offset, buffer: pool.take(len).expect("within the budget"), len }
}

fn data(result: Result<DiskReply, DiskError>) -> Bytes {
    match result {
        Ok(DiskReply::Data(buffer)) => buffer.freeze(),
        other => panic!("expected data, got {other:?}"),
    }
}

/// One step of the model test, in blocks of 4096.
#[derive(Clone, Debug)]
enum ModelStep {
    Write { block: u64, count: usize, seed: u8, durable: bool },
    Zero { block: u64, count: u64, zeroing: Zeroing },
    Read { block: u64, count: usize },
    Sync,
}

fn model_step() -> impl Strategy<Value = ModelStep> {
    let zeroing = prop_oneof![Just(Zeroing::Punch), Just(Zeroing::Keep)];
    prop_oneof![
        (0_u64..240, 1_usize..16, any::<u8>(), any::<bool>())
            .prop_map(|(block, count, seed, durable)| ModelStep::Write { block, count, seed, durable }),
        (0_u64..240, 1_u64..16, zeroing).prop_map(|(block, count, zeroing)| ModelStep::Zero {
            block,
            count,
            zeroing
        }),
        (0_u64..240, 1_usize..16).prop_map(|(block, count)| ModelStep::Read { block, count }),
        Just(ModelStep::Sync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn both_backends_do_what_the_model_does(steps in prop::collection::vec(model_step(), 1..40)) {
        for backend in BACKENDS {
            run(async {
                let folder = folder();
                let disk = open(image(&folder, SIZE), backend).expect("this machine has both");
                assert_eq!(disk.backend(), backend);
                let pool = BufferPool::new(64 << 20);
                let mut model = vec![0_u8; usize::try_from(SIZE).expect("small")];
                for step in &steps {
                    match *step {
                        ModelStep::Write { block, count, seed, durable } => {
                            let data = pattern(&pool, count * 4096, seed);
                            let at = usize::try_from(block * 4096).expect("small");
                            model[at..at + data.len()].copy_from_slice(&data);
                            perform(&*disk, DiskOp::Write { offset: block * 4096, data, durable })
                                .await
                                .expect("written");
                        }
                        ModelStep::Zero { block, count, zeroing } => {
                            let span = Span::new(block * 4096, count * 4096);
                            perform(&*disk, DiskOp::Zero { span, zeroing }).await.expect("zeroed");
                            let at = usize::try_from(span.start).expect("small");
                            model[at..usize::try_from(span.end).expect("small")].fill(0);
                        }
                        ModelStep::Read { block, count } => {
                            let read = data(perform(&*disk, read_op(&pool, block * 4096, count * 4096)).await);
                            let at = usize::try_from(block * 4096).expect("small");
                            assert_eq!(read, model[at..at + count * 4096]);
                        }
                        ModelStep::Sync => {
                            perform(&*disk, DiskOp::Sync).await.expect("synced");
                        }
                    }
                }
                drop(disk);
                assert!(fs::read(folder.path().join("disk.img")).expect("readable") == model);
                assert_eq!(pool.used_bytes(), 0);
            });
        }
    }
}

#[test]
fn more_operations_than_the_ring_holds_are_all_done() {
    for backend in BACKENDS {
        run(async {
            let folder = folder();
            let disk = open(image(&folder, 16 << 20), backend).expect("this machine has both");
            let pool = BufferPool::new(64 << 20);
            let count = 3000_u64;
            for number in 0..count {
                let data = pattern(&pool, 4096, u8::try_from(number % 251).expect("small"));
                disk.push(Tag(number), DiskOp::Write { offset: number * 4096, data, durable: false });
            }
            disk.submit();
            let mut tags: Vec<u64> = collect(&*disk, 3000)
                .await
                .into_iter()
                .map(|done| {
                    done.result.expect("written");
                    done.tag.0
                })
                .collect();
            tags.sort_unstable();
            assert!(tags.into_iter().eq(0..count));
            for number in [0, 1023, 1024, 2999] {
                let read = data(perform(&*disk, read_op(&pool, number * 4096, 4096)).await);
                assert_eq!(read, pattern(&pool, 4096, u8::try_from(number % 251).expect("small")));
            }
        });
    }
}

#[test]
fn what_was_accepted_is_carried_out_when_nobody_waits_for_it() {
    for backend in BACKENDS {
        run(async {
            let folder = folder();
            let disk = open(image(&folder, 8 << 20), backend).expect("this machine has both");
            let pool = BufferPool::new(64 << 20);
            for number in 0..1500 {
                disk.push(
                    Tag(number),
                    DiskOp::Write { offset: number * 4096, data: pattern(&pool, 4096, 9), durable: false },
                );
            }
            let buffer = pool.take(1 << 20).expect("fits");
            disk.push(Tag(9999), DiskOp::Read { offset: 0, buffer, len: 1 << 20 });
            disk.submit();
            drop(disk);
            assert_eq!(pool.used_bytes(), 0, "every buffer came back, none while the kernel used it");
            let written = fs::read(folder.path().join("disk.img")).expect("readable");
            let expected = pattern(&pool, 4096, 9);
            assert!(written[..1500 * 4096].chunks(4096).all(|block| block == expected));
        });
    }
}

#[test]
fn a_file_grows_by_a_hole_and_never_shrinks() {
    for backend in BACKENDS {
        run(async {
            let folder = folder();
            let disk = open(image(&folder, SIZE), backend).expect("this machine has both");
            let pool = BufferPool::new(64 << 20);
            let write = |offset| DiskOp::Write { offset, data: pattern(&pool, 4096, 5), durable: false };
            perform(&*disk, write(SIZE - 4096)).await.expect("written");
            let extend = |size_bytes| DiskOp::Extend { size_bytes };
            perform(&*disk, extend(2 * SIZE)).await.expect("there is room");
            assert_eq!(disk.size_bytes(), 2 * SIZE);
            let end = data(perform(&*disk, read_op(&pool, 2 * SIZE - 4096, 4096)).await);
            assert!(end.iter().all(|&byte| byte == 0), "a hole reads as zeroes");
            perform(&*disk, write(2 * SIZE - 4096)).await.expect("written behind the old end");
            perform(&*disk, extend(SIZE)).await.expect("it is that large");
            assert_eq!(disk.size_bytes(), 2 * SIZE);
            let len = fs::metadata(folder.path().join("disk.img")).expect("there").len();
            assert_eq!(len, 2 * SIZE, "{backend}");
            let odd = extend(2 * SIZE + 1);
            if disk.shape().direct {
                assert_eq!(perform(&*disk, odd).await.unwrap_err(), DiskError::Os(Errno::INVAL));
            } else {
                perform(&*disk, odd).await.expect("the page cache takes any size");
            }
        });
    }
}

/// Writes to /dev/null succeed and fdatasync on it fails: the one honest way to see a sync fail without a
/// broken disk.
fn disk_whose_sync_fails() -> DiskFile {
    let fd: OwnedFd = fs::File::options().read(true).write(true).open("/dev/null").expect("/dev/null").into();
    let shape = Shape {
        kind: DiskKind::File,
        direct: false,
        block_bytes: 1,
        memory_bytes: 1,
        zero_bytes: 4096,
        read_only: false,
        can_punch: false,
        can_zero_keep: false,
    };
    DiskFile::from_parts(fd, shape, SIZE)
}

#[test]
fn w4_after_a_failed_sync_everything_fails() {
    for backend in BACKENDS {
        run(async {
            let disk = open(disk_whose_sync_fails(), backend).expect("this machine has both");
            let write = || DiskOp::Write { offset: 0, data: Bytes::from_static(b"abc"), durable: false };
            perform(&*disk, write()).await.expect("written");
            assert_eq!(perform(&*disk, DiskOp::Sync).await.unwrap_err(), DiskError::Os(Errno::INVAL));
            assert_eq!(perform(&*disk, write()).await.unwrap_err(), DiskError::Failed);
            assert_eq!(perform(&*disk, DiskOp::Sync).await.unwrap_err(), DiskError::Failed);
            let map = DiskOp::Map { span: Span::new(0, 10), limit: 1 };
            assert_eq!(perform(&*disk, map).await.unwrap_err(), DiskError::Failed);
        });
    }
}

#[test]
fn w4_what_waits_behind_a_failing_sync_fails_too() {
    for backend in BACKENDS {
        run(async {
            let disk = open(disk_whose_sync_fails(), backend).expect("this machine has both");
            disk.push(Tag(0), DiskOp::Sync);
            disk.submit();
            collect(&*disk, 1).await;
            for number in 1..=2000 {
                let data = Bytes::from_static(b"abc");
                disk.push(Tag(number), DiskOp::Write { offset: 0, data, durable: false });
            }
            disk.submit();
            let done = collect(&*disk, 2000).await;
            assert!(done.iter().all(|done| matches!(done.result, Err(DiskError::Failed))));
        });
    }
}

#[test]
fn a_file_cut_short_under_us_is_an_error_and_not_zeroes() {
    for backend in BACKENDS {
        run(async {
            let folder = folder();
            let disk = open(image(&folder, SIZE), backend).expect("this machine has both");
            let file = fs::File::options().write(true).open(folder.path().join("disk.img")).expect("there");
            file.set_len(SIZE / 2 + 4096).expect("cut");
            let pool = BufferPool::new(64 << 20);
            let result = perform(&*disk, read_op(&pool, SIZE / 2, 16384)).await;
            assert_eq!(result.unwrap_err(), DiskError::Truncated);
            let result = perform(&*disk, read_op(&pool, SIZE - 4096, 4096)).await;
            assert_eq!(result.unwrap_err(), DiskError::Truncated);
        });
    }
}

#[test]
fn maps_tell_holes_from_data() {
    for backend in BACKENDS {
        run(async {
            let folder = folder();
            let disk = open(image(&folder, SIZE), backend).expect("this machine has both");
            let pool = BufferPool::new(64 << 20);
            for block in [0_u64, 4, 5] {
                let write =
                    DiskOp::Write { offset: block * 65536, data: pattern(&pool, 65536, 1), durable: false };
                perform(&*disk, write).await.expect("written");
            }
            let extent = |blocks: u64, hole| DiskExtent { len: blocks * 65536, hole };
            let whole = Span::new(0, SIZE);
            let map = async |span, limit| match perform(&*disk, DiskOp::Map { span, limit }).await {
                Ok(DiskReply::Extents(extents)) => extents,
                other => panic!("expected extents, got {other:?}"),
            };
            let all = [extent(1, false), extent(3, true), extent(2, false), extent(10, true)];
            assert_eq!(map(whole, 100).await, all);
            assert_eq!(map(whole, 2).await, all[..2]);
            assert_eq!(map(Span::new(65536 + 1, 100), 9).await, [DiskExtent { len: 100, hole: true }]);
            let odd = map(Span::new(65536 * 6 - 10, 30), 9).await;
            assert_eq!(odd, [DiskExtent { len: 10, hole: false }, DiskExtent { len: 20, hole: true }]);
        });
    }
}

#[test]
fn sizes_that_are_not_whole_blocks_are_served_through_the_page_cache() {
    for backend in BACKENDS {
        run(async {
            let folder = folder();
            let file = image(&folder, 1_000_001);
            assert!(!file.shape().direct);
            assert_eq!((file.shape().block_bytes, file.size_bytes()), (1, 1_000_001));
            let disk = open(file, backend).expect("this machine has both");
            let write =
                DiskOp::Write { offset: 999_990, data: Bytes::from_static(b"hello world"), durable: true };
            perform(&*disk, write).await.expect("written");
            perform(&*disk, DiskOp::Prefetch { span: Span::new(0, 1000) }).await.expect("a hint");
            let pool = BufferPool::new(64 << 20);
            let read = data(perform(&*disk, read_op(&pool, 999_989, 12)).await);
            assert_eq!(&read[..], b"\0hello world");
            drop(disk);
            let file = fs::metadata(folder.path().join("disk.img")).expect("there");
            assert_eq!(file.len(), 1_000_001, "the image keeps its size");
        });
    }
}

#[test]
fn a_disk_is_locked_and_the_holder_is_named() {
    let folder = folder();
    let first = image(&folder, SIZE);
    let path = first.path().to_owned();
    let refused = DiskFile::open(&options(&path, None)).expect_err("locked").to_string();
    let me = format!("process {}", std::process::id());
    assert!(refused.contains("in use") && refused.contains(&me), "{refused}");
    let reader = OpenOptions { path: path.clone(), size_bytes: None, read_only: true };
    assert!(matches!(DiskFile::open(&reader), Err(OpenError::InUse { .. })));
    drop(first);
    let readers = [DiskFile::open(&reader), DiskFile::open(&reader)];
    assert!(readers.iter().all(Result::is_ok), "readers share");
    assert!(matches!(DiskFile::open(&options(&path, None)), Err(OpenError::InUse { .. })));
}

#[test]
fn what_cannot_be_a_disk_is_refused_with_the_reason() {
    let folder = folder();
    let path = folder.path().join("disk.img");
    assert!(matches!(DiskFile::open(&options(&path, None)), Err(OpenError::Missing { .. })));
    assert!(!path.exists());
    assert!(matches!(DiskFile::open(&options(&path, Some(0))), Err(OpenError::Empty { .. })));
    drop(image(&folder, SIZE));
    let differs = DiskFile::open(&options(&path, Some(SIZE * 2))).expect_err("another size").to_string();
    assert!(differs.contains("1048576") && differs.contains("2097152"), "{differs}");
    fs::File::create(folder.path().join("empty")).expect("created");
    let empty = DiskFile::open(&options(&folder.path().join("empty"), None));
    assert!(matches!(empty, Err(OpenError::Empty { .. })));
    for (what, path) in [("directory", folder.path()), ("character device", Path::new("/dev/null"))] {
        let error = DiskFile::open(&options(path, None)).expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
    }
    let too_large = folder.path().join("large");
    let error = DiskFile::open(&options(&too_large, Some(u64::MAX / 2))).expect_err("no such size");
    assert!(error.to_string().contains("give it its size"), "{error}");
    assert!(!too_large.exists(), "what could not be finished is removed");
}

#[test]
fn looking_for_abilities_leaves_no_trace() {
    let folder = folder();
    let file = image(&folder, SIZE);
    let metadata = fs::metadata(file.path()).expect("there");
    assert_eq!((metadata.len(), metadata.blocks()), (SIZE, 0));
}

#[test]
fn backends_are_chosen_by_name() {
    assert_eq!("auto".parse::<BackendChoice>().expect("known"), BackendChoice::Auto);
    let pread: BackendChoice = "pread".parse().expect("known");
    assert_eq!(choose_backend(pread).expect("always works"), Backend::Threads);
    let uring: BackendChoice = "io_uring".parse().expect("known");
    assert_eq!(choose_backend(uring).expect("this machine allows it"), Backend::IoUring);
    assert!("aio".parse::<BackendChoice>().expect_err("unknown").to_string().contains("io_uring or pread"));
}

/// Set for the process that runs under a file size limit: the folder to work in.
const LIMITED_FOLDER: &str = "EVENKEEL_TEST_LIMITED_FOLDER";

/// The limit on a file's size makes the kernel write a part first, and then refuse with EFBIG. The limit holds
/// for a process, so the test starts itself once more.
#[test]
fn a_write_that_finds_no_room_goes_as_far_as_it_can_and_fails() {
    let Some(folder) = std::env::var_os(LIMITED_FOLDER) else {
        let folder = folder();
        let own = std::env::current_exe().expect("the test binary");
        let name = "disk::tests::a_write_that_finds_no_room_goes_as_far_as_it_can_and_fails";
        // 128 blocks of 512 bytes (dash) or 1024 (bash): 64 or 128 KiB. A limit sends SIGXFSZ, which kills.
        let output = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$0\" --exact \"$1\" --nocapture"])
            .arg(own)
            .arg(name)
            .env(LIMITED_FOLDER, folder.path())
            .output()
            .expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}\n{output:?}");
        return;
    };
    for backend in BACKENDS {
        run(async {
            let path = PathBuf::from(&folder).join(backend.to_string());
            let file = DiskFile::open(&options(&path, Some(64 << 10))).expect("within the limit");
            // Stretch the disk past the file and the limit: writes beyond it grow the file.
            let shape = file.shape().clone();
            let disk = open(DiskFile::from_parts(file.into_fd(), shape, SIZE), backend)
                .expect("this machine has both");
            let pool = BufferPool::new(64 << 20);
            let write =
                DiskOp::Write { offset: 32 << 10, data: pattern(&pool, 512 << 10, 3), durable: false };
            assert_eq!(perform(&*disk, write).await.unwrap_err(), DiskError::Os(Errno::FBIG));
            let written = data(perform(&*disk, read_op(&pool, 32 << 10, 32 << 10)).await);
            assert_eq!(
                written,
                pattern(&pool, 512 << 10, 3)[..32 << 10],
                "the part before the limit is there"
            );
            let durable = DiskOp::Write { offset: 256 << 10, data: pattern(&pool, 4096, 3), durable: true };
            assert_eq!(perform(&*disk, durable).await.unwrap_err(), DiskError::Os(Errno::FBIG));
            perform(&*disk, DiskOp::Sync).await.expect("a full disk is not a failed one");
        });
    }
}

#[test]
fn spans_round_to_blocks() {
    let span = Span { start: 5, end: 21 };
    assert_eq!(span.outward(8), Span { start: 0, end: 24 });
    assert_eq!(span.inward(8), Span { start: 8, end: 16 });
    assert!(Span { start: 1, end: 7 }.inward(8).is_empty());
    assert!(span.overlaps(Span { start: 20, end: 30 }) && !span.overlaps(Span { start: 21, end: 30 }));
}
