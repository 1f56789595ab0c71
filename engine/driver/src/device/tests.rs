//! The device, held against a model, on both backends.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    rc::Rc,
    task::{Context, Poll},
};

use evenkeel_nbd::device::ClientIdentity;
use proptest::prelude::*;
use tokio::task::LocalSet;

use super::*;
use crate::disk::{self, Backend, DiskCompletion, DiskFile, DiskOp, DiskReply, OpenOptions, Shape, Tag};

mod leaving;

const BACKENDS: [Backend; 2] = [Backend::IoUring, Backend::Threads];
const SIZE: u64 = 1 << 20;
const READ_BYTES: usize = 16 << 20;

/// A disk that counts syncs and maps, and may claim another shape.
struct Observed {
    disk: Box<dyn RawDisk>,
    shape: Shape,
    syncs: Rc<Cell<usize>>,
    maps: Rc<Cell<usize>>,
}

impl RawDisk for Observed {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn backend(&self) -> Backend {
        self.disk.backend()
    }

    fn push(&self, tag: Tag, op: DiskOp) {
        if matches!(op, DiskOp::Sync) {
            self.syncs.set(self.syncs.get() + 1);
        }
        if matches!(op, DiskOp::Map { .. }) {
            self.maps.set(self.maps.get() + 1);
        }
        self.disk.push(tag, op);
    }

    fn submit(&self) {
        self.disk.submit();
    }

    fn poll_completions(&self, cx: &mut Context<'_>, into: &mut Vec<DiskCompletion>) -> Poll<()> {
        self.disk.poll_completions(cx, into)
    }
}

/// A device on a new image, and a client of it.
struct Rig {
    device: FileDevice,
    client: Rc<Client>,
    syncs: Rc<Cell<usize>>,
    maps: Rc<Cell<usize>>,
    pool: BufferPool,
    path: PathBuf,
    next_id: Cell<u64>,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new(backend: Backend, size: u64, reshape: impl FnOnce(&mut Shape)) -> Self {
        Self::in_folder(tempfile::tempdir().expect("a temporary folder"), backend, size, reshape)
    }

    fn in_folder(
        folder: tempfile::TempDir,
        backend: Backend,
        size: u64,
        reshape: impl FnOnce(&mut Shape),
    ) -> Self {
        let path = folder.path().join("disk.img");
        let options = OpenOptions { path: path.clone(), size_bytes: Some(size), read_only: false };
        let file = DiskFile::open(&options).expect("a new file");
        let mut shape = file.shape().clone();
        reshape(&mut shape);
        let syncs = Rc::new(Cell::new(0));
        let disk = disk::open(file, backend).expect("this machine has both");
        let maps = Rc::new(Cell::new(0));
        let observed = Observed { disk, shape, syncs: Rc::clone(&syncs), maps: Rc::clone(&maps) };
        let pool = BufferPool::new(64 << 20);
        let device = FileDevice::start(Box::new(observed), READ_BYTES, DeviceOptions::default());
        let client = client(&device, 1);
        Self { device, client, syncs, maps, pool, path, next_id: Cell::new(0), _folder: folder }
    }

    fn request(&self, command: Command) -> Request {
        self.next_id.set(self.next_id.get() + 1);
        Request { id: RequestId(self.next_id.get()), command }
    }

    /// Submits in one batch and returns the outcomes in the order of the commands.
    async fn batch(&self, commands: Vec<Command>) -> Vec<Result<Reply, ErrorClass>> {
        let mut batch: Vec<_> = commands.into_iter().map(|command| self.request(command)).collect();
        let ids: Vec<_> = batch.iter().map(|request| request.id).collect();
        self.device.submit(&self.client, &mut batch);
        assert!(batch.is_empty());
        let mut done = collect(&self.client, ids.len()).await;
        done.sort_by_key(|completion| completion.id);
        assert!(done.iter().map(|completion| completion.id).eq(ids));
        done.into_iter().map(|completion| completion.outcome).collect()
    }

    async fn one(&self, command: Command) -> Result<Reply, ErrorClass> {
        self.batch(vec![command]).await.pop().expect("one")
    }

    async fn read(&self, offset: u64, len: u64) -> Bytes {
        match self.one(Command::Read { range: ByteRange { offset, len } }).await {
            Ok(Reply::Data(data)) => data,
            other => panic!("expected data, got {other:?}"),
        }
    }

    fn image(&self) -> Vec<u8> {
        fs::read(&self.path).expect("readable")
    }
}

fn client(device: &FileDevice, id: u64) -> Rc<Client> {
    let client = Client::new(ClientId(id), ClientIdentity::Local { pid: 1, uid: 1 });
    device.connected(&client);
    client
}

async fn collect(client: &Client, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    while done.len() < count {
        poll_fn(|cx| if client.poll_inbox(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }).await;
        client.take_completions(&mut done);
    }
    assert_eq!(done.len(), count);
    done
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

fn write(offset: u64, payload: impl Into<Bytes>) -> Command {
    Command::Write { offset, payload: payload.into(), fua: false }
}

/// An aligned payload, as the server makes them.
fn aligned(pool: &BufferPool, len: usize, byte: u8) -> Bytes {
    let mut buffer = pool.take(len).expect("within the budget");
    buffer.whole()[..len].fill(byte);
    buffer.advance(len);
    buffer.freeze()
}

fn read(range: ByteRange) -> Command {
    Command::Read { range }
}

/// A change of the model test, at any alignment.
#[derive(Clone, Debug)]
struct Change {
    offset: u64,
    len: u64,
    kind: ChangeKind,
    fua: bool,
}

#[derive(Clone, Debug)]
enum ChangeKind {
    Write { seed: u8, aligned: bool },
    Trim,
    Zero { no_hole: bool, fast: bool },
    Flush,
}

fn change() -> impl Strategy<Value = Change> {
    let kind = prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(seed, aligned)| ChangeKind::Write { seed, aligned }),
        1 => Just(ChangeKind::Trim),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(no_hole, fast)| ChangeKind::Zero { no_hole, fast }),
        1 => Just(ChangeKind::Flush),
    ];
    // Half of the places are whole blocks, so that both paths meet; all lie close together, so that they overlap.
    let place = prop_oneof![
        (0_u64..24, 1_u64..8).prop_map(|(block, count)| (block * 4096, count * 4096)),
        (0_u64..98_304, 1_u64..12_000),
    ];
    (place, kind, any::<bool>()).prop_map(|((offset, len), kind, fua)| Change { offset, len, kind, fua })
}

fn command_for(change: &Change, pool: &BufferPool, size: u64, model: &mut [u8]) -> Command {
    let offset = change.offset;
    let len = change.len.min(size - offset);
    let range = ByteRange { offset, len };
    let fua = change.fua;
    let target = &mut model[to_len(offset)..to_len(offset + len)];
    match change.kind {
        ChangeKind::Write { seed, aligned } => {
            for (place, byte) in (seed..=255).cycle().zip(target.iter_mut()) {
                *byte = place;
            }
            let payload = if aligned {
                let mut buffer = pool.take(target.len()).expect("within the budget");
                buffer.extend(target);
                buffer.freeze()
            } else {
                let mut odd = vec![0; target.len() + 1];
                odd[1..].copy_from_slice(target);
                Bytes::from(odd).slice(1..)
            };
            Command::Write { offset, payload, fua }
        }
        ChangeKind::Trim => {
            target.fill(0);
            Command::Trim { range, fua }
        }
        ChangeKind::Zero { no_hole, fast } => {
            target.fill(0);
            Command::WriteZeroes { range, fua, no_hole, fast }
        }
        ChangeKind::Flush => Command::Flush,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Batches of overlapping changes in flight together, then reads: all in the order of admission.
    #[test]
    fn requests_in_flight_do_what_the_model_does_in_order(
        batches in prop::collection::vec(
            (prop::collection::vec(change(), 1..16), prop::collection::vec((0_u64..98_304, 1_u64..12_000), 0..6)),
            1..6,
        ),
        shape in 0_usize..3,
    ) {
        // Whole blocks with O_DIRECT, a size with an odd tail, and whole blocks without fallocate.
        let size = [131_072, 110_001, 131_072][shape];
        for backend in BACKENDS {
            run(async {
                let rig = Rig::new(backend, size, |claimed| {
                    claimed.can_punch &= shape != 2;
                    claimed.can_zero_keep &= shape != 2;
                });
                let mut model = vec![0_u8; to_len(size)];
                for (changes, reads) in &batches {
                    let mut commands: Vec<_> =
                        changes.iter().map(|change| command_for(change, &rig.pool, size, &mut model)).collect();
                    if shape == 2 {
                        for command in &mut commands {
                            if let Command::WriteZeroes { fast, .. } = command {
                                *fast = false;
                            }
                        }
                    }
                    let ranges = reads.iter().map(|&(offset, len)| ByteRange { offset, len: len.min(size - offset) });
                    commands.extend(ranges.clone().map(read));
                    let outcomes = rig.batch(commands).await;
                    for outcome in &outcomes[..changes.len()] {
                        assert_eq!(outcome, &Ok(Reply::Done));
                    }
                    for (outcome, range) in outcomes[changes.len()..].iter().zip(ranges) {
                        let expected = &model[to_len(range.offset)..to_len(range.end())];
                        assert!(*outcome == Ok(Reply::Data(Bytes::copy_from_slice(expected))), "{range:?}");
                    }
                    drop(outcomes);
                }
                rig.device.drain().await.expect("stable");
                assert!(rig.image() == model, "the image is the model");
                assert_eq!(rig.pool.used_bytes() + rig.device.shared.replies.used_bytes(), 0);
                assert_eq!(rig.device.shared.disk.used_bytes(), 0);
            });
        }
    }
}

#[test]
fn flushes_share_syncs() {
    for backend in BACKENDS {
        run(async {
            let rig = Rig::new(backend, SIZE, |_| {});
            let other = client(&rig.device, 2);
            rig.one(write(0, aligned(&rig.pool, 4096, 1))).await.expect("written");
            let mut batch: Vec<_> = (0..50).map(|_| rig.request(Command::Flush)).collect();
            let mut others: Vec<_> = (0..50).map(|_| rig.request(Command::Flush)).collect();
            rig.device.submit(&rig.client, &mut batch);
            rig.device.submit(&other, &mut others);
            for client in [&rig.client, &other] {
                let done = collect(client, 50).await;
                assert!(done.iter().all(|done| done.outcome == Ok(Reply::Done)));
            }
            assert_eq!(rig.syncs.get(), 2, "one for the first flush, one for the 99 that came while it ran");
        });
    }
}

#[test]
fn a_flush_after_a_replied_write_never_joins_a_sync_that_was_running() {
    run(async {
        let rig = Rig::new(Backend::IoUring, SIZE, |_| {});
        for round in 0..20 {
            let mut batch = vec![rig.request(Command::Flush)];
            batch.push(rig.request(write(0, aligned(&rig.pool, 4096, round))));
            batch.push(rig.request(Command::Flush));
            let last = batch[2].id;
            let before = rig.syncs.get();
            rig.device.submit(&rig.client, &mut batch);
            assert_eq!(rig.syncs.get(), before + 1, "the second flush waits");
            let done = collect(&rig.client, 3).await;
            assert_eq!(rig.syncs.get(), before + 2, "and gets a sync of its own");
            let place = |id| done.iter().position(|done| done.id == id).expect("completed");
            assert!(
                place(RequestId(last.0 - 2)) < place(last),
                "the first sync answers the first flush alone"
            );
        }
    });
}

#[test]
fn an_ability_that_turns_out_missing_is_replaced_by_writing() {
    run(async {
        // A tmpfs can punch but not zero and keep; here it claims that it can.
        let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a tmpfs on every Linux");
        let rig = Rig::in_folder(folder, Backend::IoUring, SIZE, |shape| shape.can_zero_keep = true);
        rig.one(write(0, aligned(&rig.pool, 65536, 9))).await.expect("written");
        let range = ByteRange { offset: 0, len: 65536 };
        let zeroes = |fast| Command::WriteZeroes { range, fua: false, no_hole: true, fast };
        assert_eq!(rig.one(zeroes(true)).await, Err(ErrorClass::NotSupported));
        rig.one(zeroes(false)).await.expect("written as zeroes");
        assert_eq!(rig.read(0, 65536).await, vec![0; 65536]);
        assert!(fs::metadata(&rig.path).expect("there").blocks() * 512 >= 65536, "the space is kept");
        rig.one(Command::Trim { range, fua: false }).await.expect("punched");
        assert!(fs::metadata(&rig.path).expect("there").blocks() * 512 < 65536);
    });
}

#[test]
fn fua_on_a_write_needs_no_sync_and_on_zeroes_one() {
    run(async {
        let rig = Rig::new(Backend::IoUring, SIZE, |_| {});
        let payload = aligned(&rig.pool, 4096, 1);
        rig.one(Command::Write { offset: 0, payload, fua: true }).await.expect("written");
        assert_eq!(rig.syncs.get(), 0);
        let range = ByteRange { offset: 0, len: 8192 };
        rig.one(Command::Trim { range, fua: true }).await.expect("trimmed");
        assert_eq!(rig.syncs.get(), 1);
        let zeroes = Command::WriteZeroes { range, fua: true, no_hole: true, fast: false };
        rig.one(zeroes).await.expect("zeroed");
        assert_eq!(rig.syncs.get(), 2);
    });
}

#[test]
fn trim_gives_space_back_however_large() {
    for backend in BACKENDS {
        run(async {
            let size = 6_u64 << 30;
            let rig = Rig::new(backend, size, |_| {});
            for place in [4096, 1 << 30, (4 << 30) - 8192] {
                rig.one(write(place, aligned(&rig.pool, 1 << 20, 5))).await.expect("written");
            }
            let used = |rig: &Rig| fs::metadata(&rig.path).expect("there").blocks() * 512;
            assert!(used(&rig) >= 3 << 20);
            let range = ByteRange { offset: 4097, len: (4 << 30) - 1 };
            rig.one(Command::Trim { range, fua: true }).await.expect("trimmed");
            assert!(used(&rig) < (1 << 20) + 65536, "{} bytes are still used", used(&rig));
            assert_eq!(rig.read(4095, 4).await[..], [0, 5, 0, 0]);
            assert_eq!(rig.read(4096 + (4 << 30) - 1, 3).await[..], [0, 5, 5]);
        });
    }
}

#[test]
fn write_zeroes_keeps_space_or_gives_it_back() {
    run(async {
        let rig = Rig::new(Backend::IoUring, SIZE, |_| {});
        let used = |rig: &Rig| fs::metadata(&rig.path).expect("there").blocks() * 512;
        let range = ByteRange { offset: 0, len: 65536 };
        let zeroes = |no_hole, fast| Command::WriteZeroes { range, fua: false, no_hole, fast };
        rig.one(zeroes(true, true)).await.expect("ext4 can");
        assert!(used(&rig) >= 65536);
        rig.one(zeroes(false, true)).await.expect("ext4 can");
        assert!(used(&rig) < 65536);
        assert_eq!(rig.read(0, 65536).await, vec![0; 65536]);
        assert!(rig.device.features().fast_zero);
    });
}

#[test]
fn fast_zero_is_refused_where_only_writing_would_do() {
    run(async {
        let rig = Rig::new(Backend::IoUring, SIZE, |shape| {
            shape.can_punch = false;
            shape.can_zero_keep = false;
        });
        assert!(!rig.device.features().fast_zero);
        rig.one(write(0, aligned(&rig.pool, 65536, 9))).await.expect("written");
        let range = ByteRange { offset: 10, len: 20_000 };
        let zeroes = |fast| Command::WriteZeroes { range, fua: false, no_hole: false, fast };
        assert_eq!(rig.one(zeroes(true)).await, Err(ErrorClass::NotSupported));
        assert_eq!(rig.read(0, 65536).await, vec![9; 65536], "refused means untouched");
        rig.one(zeroes(false)).await.expect("written as zeroes");
        rig.one(Command::Trim { range: ByteRange { offset: 30_000, len: 5000 }, fua: false })
            .await
            .expect("written as zeroes");
        let mut expected = vec![9; 65536];
        expected[10..20_010].fill(0);
        expected[30_000..35_000].fill(0);
        assert_eq!(rig.read(0, 65536).await, expected);
    });
}

#[test]
fn maps_and_hints_are_answered() {
    for backend in BACKENDS {
        run(async {
            let rig = Rig::new(backend, SIZE, |_| {});
            rig.one(write(65536, aligned(&rig.pool, 65536, 1))).await.expect("written");
            let range = ByteRange { offset: 0, len: SIZE };
            let map = rig.one(Command::Map { range, context: MapContext::Allocation }).await;
            let hole = evenkeel_nbd::device::Extent::HOLE | evenkeel_nbd::device::Extent::ZERO;
            let extent = |len, flags| evenkeel_nbd::device::Extent { len, flags };
            let expected = vec![extent(65536, hole), extent(65536, 0), extent(SIZE - 131_072, hole)];
            assert_eq!(map, Ok(Reply::Extents(expected)));
            assert_eq!(rig.one(Command::Cache { range }).await, Ok(Reply::Done));
        });
    }
}

#[test]
fn a_read_waits_for_memory() {
    run(async {
        let rig = Rig::new(Backend::IoUring, SIZE, |_| {});
        let all: Vec<_> = std::iter::from_fn(|| rig.device.shared.replies.take(1 << 20)).collect();
        let mut batch = vec![rig.request(read(ByteRange { offset: 0, len: 100 }))];
        rig.device.submit(&rig.client, &mut batch);
        tokio::task::yield_now().await;
        drop(all);
        let done = collect(&rig.client, 1).await;
        assert_eq!(done[0].outcome, Ok(Reply::Data(Bytes::from(vec![0; 100]))));
    });
}

#[test]
fn a_read_only_device_changes_nothing() {
    run(async {
        let rig = Rig::new(Backend::IoUring, SIZE, |shape| shape.read_only = true);
        let range = ByteRange { offset: 0, len: 4096 };
        for command in [
            write(0, aligned(&rig.pool, 4096, 1)),
            Command::Trim { range, fua: false },
            Command::WriteZeroes { range, fua: false, no_hole: false, fast: false },
        ] {
            assert_eq!(rig.one(command).await, Err(ErrorClass::NotPermitted));
        }
        assert_eq!(rig.read(0, 4096).await, vec![0; 4096]);
        assert!(rig.device.features().read_only);
    });
}

#[test]
fn clients_are_refused_with_the_reason_once_the_device_is_going() {
    run(async {
        let rig = Rig::new(Backend::IoUring, SIZE, |_| {});
        let state = rig.device.state();
        assert_eq!(*state.borrow(), ExportState::Serving { size: SIZE });
        rig.device.refuse("going away");
        assert_eq!(*state.borrow(), ExportState::Refused("going away".into()));
    });
}

#[test]
fn w4_a_failed_disk_answers_everything_with_an_error() {
    run(async {
        let rig = Rig::new(Backend::IoUring, SIZE, |_| {});
        // The wrapper cannot fail the inner disk, so this one is of its own kind.
        let device = FileDevice::start(
            Box::new(SyncFails { shape: rig.device.shared.disk.shape().clone(), done: RefCell::default() }),
            READ_BYTES,
            DeviceOptions::default(),
        );
        let client = client(&device, 5);
        let mut batch = vec![rig.request(Command::Flush), rig.request(Command::Flush)];
        device.submit(&client, &mut batch);
        let done = collect(&client, 2).await;
        assert!(done.iter().all(|done| done.outcome == Err(ErrorClass::Io)));
        assert_eq!(device.drain().await, Err(DiskError::Failed));
    });
}

/// A disk that only knows how to fail syncs.
struct SyncFails {
    shape: Shape,
    done: RefCell<Vec<Tag>>,
}

impl RawDisk for SyncFails {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn size_bytes(&self) -> u64 {
        SIZE
    }

    fn backend(&self) -> Backend {
        Backend::Threads
    }

    fn push(&self, tag: Tag, op: DiskOp) {
        assert!(matches!(op, DiskOp::Sync), "this test only syncs");
        self.done.borrow_mut().push(tag);
    }

    fn submit(&self) {}

    fn poll_completions(&self, cx: &mut Context<'_>, into: &mut Vec<DiskCompletion>) -> Poll<()> {
        let result: Result<DiskReply, DiskError> = Err(DiskError::Failed);
        match self.done.borrow_mut().pop() {
            Some(tag) => {
                into.push(DiskCompletion { tag, result });
                Poll::Ready(())
            }
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}
