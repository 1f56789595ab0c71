//! One node without peers: what clients write is there, also after the process died, on both disk backends.

use evenkeel_core::volume::{DiskState, Role, operator::Force};
use evenkeel_driver::{
    disk::{Backend, BackendChoice},
    node::VolumeCommand,
};

use crate::{
    client::{FUA, Failure, NO_HOLE},
    rig::{Cluster, SIZE, pattern},
};

const BACKENDS: [Backend; 2] = [Backend::IoUring, Backend::Threads];

#[tokio::test]
async fn what_is_written_is_read_back_at_any_alignment() {
    for backend in BACKENDS {
        let mut cluster = Cluster::new(&["alpha"]);
        cluster.backend = BackendChoice::Only(backend);
        let node = cluster.start("alpha").await;
        let status = node.status().await;
        assert_eq!((status.disk, status.role), (DiskState::UpToDate, Role::Secondary), "{:#?}", status);
        node.promote(Force::No).await;
        let model = node
            .client(|client| {
                assert_eq!(client.size, SIZE);
                let mut model = vec![0; usize::try_from(SIZE).expect("small")];
                // Whole blocks, sectors, parts of sectors, across edges.
                let places =
                    [(0, 4096), (4096, 512), (10_000, 3), (511, 2), (8191, 70_001), (1 << 20, 3 << 20)];
                for (number, (offset, len)) in (0..).zip(places) {
                    let data = pattern(number + 1, len);
                    client.write_with(if number % 2 == 0 { FUA } else { 0 }, offset, &data)?;
                    let at = usize::try_from(offset).expect("small");
                    model[at..at + len].copy_from_slice(&data);
                }
                for (keep, offset, len) in [(0, 8200, 9000), (NO_HOLE, (1 << 20) + 1, 1_000_000), (0, 3, 5)] {
                    client.zero(keep, offset, len)?;
                    let at = usize::try_from(offset).expect("small");
                    model[at..at + len as usize].fill(0);
                }
                client.trim(2 << 20, 1 << 20)?;
                model[2 << 20..3 << 20].fill(0);
                client.flush()?;
                for (offset, len) in [(0, 4 << 20), (1, 7), (510, 4), (9999, 5000)] {
                    let at = usize::try_from(offset).expect("small");
                    assert!(client.read(offset, len)? == model[at..at + len], "read of {len} at {offset}");
                }
                Ok(model)
            })
            .await
            .expect("served");
        assert!(cluster.image("alpha") == model, "the image is what the client sees (D1)");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_primary_whose_process_died_serves_again_by_itself() {
    let cluster = Cluster::new(&["alpha"]);
    let node = cluster.start("alpha").await;
    node.promote(Force::No).await;
    let data = pattern(1, 8192);
    let written = data.clone();
    node.client(move |client| client.write(4096, &written)).await.expect("written");
    node.crash().await;

    let node = cluster.start("alpha").await;
    node.wait("primary again (P7)", |status| status.role == Role::Primary).await;
    let read = node.client(|client| client.read(4096, 8192)).await.expect("served");
    assert!(read == data);
    node.stop().await;

    let node = cluster.start("alpha").await;
    let status = node.status().await;
    assert_eq!((status.role, status.disk), (Role::Secondary, DiskState::UpToDate), "it left cleanly (P6)");
    node.stop().await;
}

#[tokio::test]
async fn a_secondary_refuses_clients_and_a_demotion_waits_for_them() {
    let cluster = Cluster::new(&["alpha"]);
    let node = cluster.start("alpha").await;
    match node.client(|client| client.read(0, 512)).await {
        Err(Failure::Refused(kind, text)) => {
            assert_eq!(kind, (1 << 31) + 2, "ERR_POLICY");
            assert!(text.contains("secondary"), "{text}");
        }
        other => panic!("a secondary serves nobody: {other:?}"),
    }
    node.promote(Force::No).await;
    let (entered, mut wait_entered) = tokio::sync::mpsc::channel(1);
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let staying = node.client(move |client| {
        client.write(0, &[7; 512])?;
        entered.blocking_send(()).expect("the test waits");
        may_go_on.recv().expect("the test goes on");
        client.write(0, &[8; 512])
    });
    let demote = async {
        wait_entered.recv().await.expect("the client entered");
        let refused = node.command(VolumeCommand::Secondary { force: false }).await;
        let text = format!("{refused:?}");
        assert!(text.contains("process") && text.contains("--force"), "the client is named: {text}");
        assert_eq!(node.status().await.role, Role::Primary, "nothing changed");
        node.command(VolumeCommand::Secondary { force: true }).await;
        assert_eq!(node.status().await.role, Role::Secondary);
        go_on.send(()).expect("the client waits");
    };
    let (staying, ()) = tokio::join!(staying, demote);
    assert!(staying.is_err(), "it was cut off");
    node.stop().await;
}
