//! Clients that leave, and a device that goes, with requests in flight.

use super::*;

#[test]
fn what_a_client_began_ends_after_it_has_gone_and_what_waits_is_dropped() {
    for backend in BACKENDS {
        run(async {
            let rig = Rig::new(backend, 8 << 20, |_| {});
            let mut batch = Vec::new();
            for block in 0..64_u64 {
                batch.push(rig.request(write(block * 65536, aligned(&rig.pool, 65536, 7))));
                batch.push(rig.request(write(block * 65536, aligned(&rig.pool, 65536, 8))));
                batch.push(rig.request(read(ByteRange { offset: block * 65536, len: 65536 })));
            }
            rig.device.submit(&rig.client, &mut batch);
            rig.device.disconnected(&rig.client);
            rig.device.drain().await.expect("stable");
            let mut done = Vec::new();
            rig.client.take_completions(&mut done);
            assert_eq!(done.len(), 64, "only what had begun: the first write to each place");
            drop(done);
            assert_eq!(rig.pool.used_bytes(), 0);
            let image = rig.image();
            assert!(image[..64 * 65536].iter().all(|&byte| byte == 7));
            let next = client(&rig.device, 2);
            let mut batch = vec![rig.request(read(ByteRange { offset: 0, len: 1 }))];
            rig.device.submit(&next, &mut batch);
            let done = collect(&next, 1).await;
            assert_eq!(done[0].outcome, Ok(Reply::Data(Bytes::from_static(&[7]))), "no range stayed locked");
        });
    }
}

#[test]
fn w1_maps_of_a_client_that_left_are_never_begun() {
    for backend in BACKENDS {
        run(async {
            let rig = Rig::new(backend, SIZE, |_| {});
            let range = ByteRange { offset: 0, len: SIZE };
            let map = || Command::Map { range, context: MapContext::Allocation };
            let mut batch: Vec<_> = (0..2000).map(|_| rig.request(map())).collect();
            rig.device.submit(&rig.client, &mut batch);
            while rig.maps.get() == 0 {
                tokio::task::yield_now().await;
            }
            rig.device.disconnected(&rig.client);
            rig.device.drain().await.expect("stable");
            assert_eq!(rig.maps.get(), 1, "one client has one map at the disk at a time");
            let next = client(&rig.device, 2);
            let mut batch: Vec<_> = (0..3).map(|_| rig.request(map())).collect();
            rig.device.submit(&next, &mut batch);
            let done = collect(&next, 3).await;
            assert!(done.iter().all(|done| matches!(done.outcome, Ok(Reply::Extents(_)))));
            assert_eq!(rig.maps.get(), 4, "its successor gets all of its own");
        });
    }
}

#[test]
fn zeroes_that_are_written_end_early_when_the_client_leaves() {
    run(async {
        let rig = Rig::new(Backend::IoUring, 1 << 30, |shape| {
            shape.can_punch = false;
            shape.can_zero_keep = false;
        });
        let range = ByteRange { offset: 0, len: 1 << 30 };
        let mut batch = vec![rig.request(Command::Trim { range, fua: false })];
        rig.device.submit(&rig.client, &mut batch);
        tokio::task::yield_now().await;
        rig.device.disconnected(&rig.client);
        rig.device.drain().await.expect("stable");
        let used = fs::metadata(&rig.path).expect("there").blocks() * 512;
        assert!(used < 1 << 29, "{used} bytes were written for nobody");
    });
}

#[test]
fn the_device_may_go_with_requests_in_flight() {
    for backend in BACKENDS {
        let mut pool = None;
        run(async {
            let rig = Rig::new(backend, 8 << 20, |_| {});
            let mut batch = Vec::new();
            for block in 0..500_u64 {
                batch.push(rig.request(write(block * 4096, aligned(&rig.pool, 4096, 7))));
                batch.push(rig.request(write(block * 4096 + 1, aligned(&rig.pool, 4096, 7))));
            }
            rig.device.submit(&rig.client, &mut batch);
            pool = Some(rig.pool.clone());
        });
        assert_eq!(pool.expect("the test ran").used_bytes(), 0, "no buffer is lost, none freed too early");
    }
}
