//! The handshake as a client sees it: every option, and every way to get it wrong.

use evenkeel_nbd::{
    fuzzing::{Harness, OptionReply, export_option, info_option, option},
    wire::option::{self as code, info, reply},
};

const FLAGS: [u8; 4] = [0, 0, 0, 3];

/// A session that has been greeted and has been fed `options`.
fn session(options: &[Vec<u8>]) -> Harness {
    let mut harness = Harness::new();
    harness.feed(&FLAGS);
    for bytes in options {
        harness.feed(bytes);
    }
    harness
}

/// The types of the replies to `options`.
fn kinds(options: &[Vec<u8>]) -> Vec<u32> {
    session(options).option_replies().iter().map(|reply| reply.kind).collect()
}

fn structured() -> Vec<u8> {
    option(code::STRUCTURED_REPLY, b"")
}

fn text(reply: &OptionReply) -> &str {
    str::from_utf8(&reply.data).expect("error texts are UTF-8")
}

#[test]
fn unknown_client_flags_close_and_few_flags_do_not() {
    for (flags, closed) in [(0_u32, false), (1, false), (2, false), (3, false), (4, true), (1 << 31, true)] {
        let mut harness = Harness::new();
        harness.feed(&flags.to_be_bytes());
        assert_eq!(harness.is_closed(), closed, "flags {flags:#x}");
    }
}

#[test]
fn unknown_options_are_refused_in_step() {
    for unknown in [0, 4, code::STARTTLS, code::EXTENDED_HEADERS, 12, u32::MAX] {
        for length in [0, 1, 4096, 8192, 8193, 65536] {
            let harness = session(&[option(unknown, &vec![0x49; length]), option(code::LIST, b"")]);
            let replies = harness.option_replies();
            assert_eq!((replies[0].option, replies[0].kind), (unknown, reply::ERR_UNSUP));
            assert_eq!(
                replies.last().map(|reply| reply.kind),
                Some(reply::ACK),
                "in step after {length} bytes"
            );
        }
    }
}

#[test]
fn oversized_options_are_skipped_or_close() {
    for known in [code::LIST, code::INFO, code::GO, code::STRUCTURED_REPLY, code::SET_META_CONTEXT] {
        let options = [option(known, &vec![0; 8193]), option(code::STRUCTURED_REPLY, b"")];
        assert_eq!(kinds(&options), [reply::ERR_TOO_BIG, reply::ACK]);
    }
    assert!(session(&[option(code::GO, &[])[..12].to_vec(), vec![0xff; 4]]).is_closed(), "4 GiB announced");
    assert!(session(&[option(code::LIST, &vec![0; 65537])]).is_closed());
    assert!(session(&[option(code::EXPORT_NAME, &vec![b'a'; 8193])]).is_closed());
}

#[test]
fn something_else_than_an_option_closes() {
    assert!(session(&[b"GET / HTTP/1.1\r\n\r\n".to_vec()]).is_closed());
    let harness = session(&[b"IHAVEOPX\0\0\0\x03\0\0\0\0".to_vec()]);
    assert!(harness.is_closed() && harness.option_replies().is_empty());
}

#[test]
fn the_option_after_the_last_allowed_closes() {
    let mut harness = session(&vec![option(code::LIST, b"x"); 64]);
    assert!(!harness.is_closed());
    assert_eq!(harness.option_replies().len(), 64);
    harness.feed(&option(code::LIST, b""));
    assert!(harness.is_closed());
    assert_eq!(harness.option_replies().last().map(|reply| reply.kind), Some(reply::ERR_TOO_BIG));
}

#[test]
fn abort_is_acknowledged_with_and_without_data() {
    for length in [0, 5, 10_000] {
        let harness = session(&[option(code::ABORT, &vec![0; length])]);
        assert!(harness.is_closed());
        assert_eq!(
            harness.option_replies().last().map(|reply| (reply.option, reply.kind)),
            Some((code::ABORT, reply::ACK))
        );
    }
}

#[test]
fn list_names_all_exports_and_refuses_data() {
    let replies = session(&[option(code::LIST, b"")]).option_replies();
    let servers: Vec<_> = replies.iter().filter(|reply| reply.kind == reply::SERVER).collect();
    assert_eq!(servers.len(), 3);
    assert_eq!(servers[1].data, b"\0\0\0\x02r0memory");
    assert_eq!(replies.last().map(|reply| reply.kind), Some(reply::ACK));
    assert_eq!(kinds(&[option(code::LIST, b"x"), structured()]), [reply::ERR_INVALID, reply::ACK]);
}

#[test]
fn info_tells_what_was_asked_for_and_stays_in_the_handshake() {
    let wanted = [info::BLOCK_SIZE, info::NAME, info::DESCRIPTION, 77];
    let harness = session(&[info_option(code::INFO, "r0", &wanted), info_option(code::INFO, "ro", &[])]);
    assert!(harness.entered().is_none());
    let data: Vec<_> = harness.option_replies().into_iter().map(|reply| (reply.kind, reply.data)).collect();
    assert_eq!(data[0], (reply::INFO, b"\0\0\0\0\0\0\0\x01\0\0\x0d\x6d".to_vec()));
    assert_eq!(data[1], (reply::INFO, b"\0\x01r0".to_vec()));
    assert_eq!(data[2], (reply::INFO, b"\0\x02memory".to_vec()));
    assert_eq!(
        data[3],
        (reply::INFO, b"\0\x03\0\0\0\x01\0\0\x10\0\0\0\x80\0".to_vec()),
        "the harness allows 32 KiB"
    );
    assert_eq!(data[4].0, reply::ACK);
    assert_eq!(
        data[5],
        (reply::INFO, b"\0\0\0\0\0\0\0\x01\0\0\x05\x0f".to_vec()),
        "flags of a read-only export"
    );
    assert_eq!((data[6].0, data.len()), (reply::ACK, 7));
}

#[test]
fn df_is_advertised_with_structured_replies_only() {
    let harness = session(&[structured(), info_option(code::INFO, "r0", &[])]);
    let replies = harness.option_replies();
    assert_eq!(replies[1].data[10..], [0x0d, 0xed]);
}

#[test]
fn go_enters_and_sends_no_padding() {
    let harness = session(&[info_option(code::GO, "r0", &[])]);
    assert_eq!(harness.entered().map(|params| (params.size, params.structured)), Some((64 << 10, false)));
    let kinds: Vec<_> = harness.option_replies().iter().map(|reply| reply.kind).collect();
    assert_eq!(kinds, [reply::INFO, reply::ACK]);
    assert!(harness.replied().is_empty() && harness.export_reply().is_empty());
}

#[test]
fn go_is_refused_with_a_text_and_the_client_may_go_on() {
    let harness = session(&[
        info_option(code::GO, "away", &[]),
        info_option(code::INFO, "away", &[]),
        info_option(code::GO, "nobody\u{1b}[31m", &[]),
        info_option(code::GO, "", &[]),
        info_option(code::GO, "r0", &[]),
    ]);
    let replies = harness.option_replies();
    let kinds: Vec<_> = replies.iter().map(|reply| reply.kind).collect();
    let errors = [reply::ERR_POLICY, reply::ERR_POLICY, reply::ERR_UNKNOWN, reply::ERR_UNKNOWN];
    assert_eq!(kinds[..4], errors);
    assert_eq!(text(&replies[0]), "the primary is on node beta");
    assert!(
        text(&replies[2]).contains("nobody\\u{1b}"),
        "control characters are not echoed: {}",
        text(&replies[2])
    );
    assert!(harness.entered().is_some());
}

#[test]
fn names_of_any_length_are_harmless() {
    for length in [1, 255, 256, 257, 4095, 4096] {
        let name = "n".repeat(length);
        assert_eq!(kinds(&[info_option(code::GO, &name, &[])]), [reply::ERR_UNKNOWN], "{length}");
        let set = export_option(code::SET_META_CONTEXT, &name, &[]);
        assert_eq!(kinds(&[structured(), set]), [reply::ACK, reply::ERR_UNKNOWN]);
        assert!(session(&[option(code::EXPORT_NAME, name.as_bytes())]).is_closed());
    }
    for name in ["n".repeat(4097), "a\0b".to_owned()] {
        assert_eq!(kinds(&[info_option(code::GO, &name, &[])]), [reply::ERR_INVALID]);
        assert!(session(&[option(code::EXPORT_NAME, name.as_bytes())]).is_closed());
    }
    assert_eq!(kinds(&[option(code::GO, b"\0\0\0\x01\xff\0\0")]), [reply::ERR_INVALID], "not UTF-8");
}

#[test]
fn lying_inner_lengths_are_invalid_and_in_step() {
    let lies: [&[u8]; 6] = [
        b"",
        b"\0\0\0",
        b"\xff\xff\xff\xffr0\0\0",
        b"\0\0\0\x03r0\0\0",
        b"\0\0\0\x02r0\0\x01",
        b"\0\0\0\x02r0\0\0\0",
    ];
    for lie in lies {
        for which in [code::INFO, code::GO] {
            assert_eq!(
                kinds(&[option(which, lie), structured()]),
                [reply::ERR_INVALID, reply::ACK],
                "{lie:?}"
            );
        }
    }
    let lies: [&[u8]; 5] = [
        b"\0\0\0\x02r0",
        b"\0\0\0\x02r0\xff\xff\xff\xff",
        b"\0\0\0\x02r0\0\0\0\x01\0\0\0\x06base:",
        b"\0\0\0\x02r0\0\0\0\x01\0\0\0\x05base:x",
        b"\0\0\0\x09r0\0\0\0\0",
    ];
    for lie in lies {
        for which in [code::LIST_META_CONTEXT, code::SET_META_CONTEXT] {
            let options = [structured(), option(which, lie), structured()];
            assert_eq!(kinds(&options), [reply::ACK, reply::ERR_INVALID, reply::ACK], "{lie:?}");
        }
    }
}

#[test]
fn export_name_enters_with_and_without_padding() {
    for (flags, length) in [([0, 0, 0, 3], 10), ([0, 0, 0, 1], 134), ([0, 0, 0, 0], 134)] {
        let mut harness = Harness::new();
        harness.feed(&flags);
        harness.feed(&option(code::EXPORT_NAME, b"r0"));
        assert_eq!(harness.export_reply().len(), length);
        assert_eq!(harness.export_reply()[..10], [0, 0, 0, 0, 0, 1, 0, 0, 0x0d, 0x6d]);
        assert!(harness.export_reply()[10..].iter().all(|byte| *byte == 0));
        assert!(harness.entered().is_some());
    }
}

#[test]
fn export_name_has_no_error_reply() {
    for name in ["nobody", "away", ""] {
        let harness = session(&[option(code::EXPORT_NAME, name.as_bytes())]);
        assert!(
            harness.is_closed() && harness.option_replies().is_empty() && harness.export_reply().is_empty()
        );
    }
}

#[test]
fn structured_reply_refuses_data() {
    assert_eq!(kinds(&[option(code::STRUCTURED_REPLY, b"x")]), [reply::ERR_INVALID]);
    let harness = session(&[option(code::STRUCTURED_REPLY, b"x"), info_option(code::GO, "r0", &[])]);
    assert_eq!(harness.entered().map(|params| params.structured), Some(false));
}

/// The names that LIST_META_CONTEXT returns for `queries`.
fn listed(queries: &[&str]) -> Vec<String> {
    let replies =
        session(&[structured(), export_option(code::LIST_META_CONTEXT, "r0", queries)]).option_replies();
    assert_eq!(replies.last().map(|reply| reply.kind), Some(reply::ACK));
    let names = replies[1..replies.len() - 1].iter();
    names
        .map(|reply| {
            assert_eq!((reply.kind, &reply.data[..4]), (reply::META_CONTEXT, &[0; 4][..]));
            str::from_utf8(&reply.data[4..]).expect("names are UTF-8").to_owned()
        })
        .collect()
}

#[test]
fn contexts_are_listed_by_query() {
    assert_eq!(listed(&[]), ["base:allocation", "x-evenkeel:dirty"]);
    assert_eq!(listed(&["base:"]), ["base:allocation"]);
    assert_eq!(listed(&["x-evenkeel:", "base:allocation"]), ["base:allocation", "x-evenkeel:dirty"]);
    assert_eq!(listed(&["base:nothing", "qemu:dirty-bitmap:x", "no colon", "", ":"]), [""; 0]);
}

/// The contexts that are active after `options` and GO.
fn active(options: &[Vec<u8>], go: &str) -> usize {
    let mut harness = session(options);
    harness.feed(&info_option(code::GO, go, &[]));
    harness.entered().map_or(usize::MAX, |params| params.contexts.len())
}

#[test]
fn each_set_replaces_the_selection_also_when_it_fails() {
    let set = |name, queries: &[&str]| export_option(code::SET_META_CONTEXT, name, queries);
    let both = || set("r0", &["base:allocation", "x-evenkeel:dirty"]);
    assert_eq!(active(&[structured(), both()], "r0"), 2);
    assert_eq!(active(&[structured(), both(), set("r0", &["base:allocation"])], "r0"), 1);
    assert_eq!(active(&[structured(), both(), set("r0", &[])], "r0"), 0, "no query selects nothing");
    assert_eq!(active(&[structured(), set("r0", &["base:", "x-evenkeel:"])], "r0"), 0, "no wildcards here");
    assert_eq!(active(&[structured(), both(), option(code::SET_META_CONTEXT, b"lie")], "r0"), 0, "malformed");
    assert_eq!(
        active(&[structured(), both(), set("nobody", &["base:allocation"])], "r0"),
        0,
        "unknown export"
    );
    let oversized = option(code::SET_META_CONTEXT, &[0; 9000]);
    assert_eq!(active(&[structured(), both(), oversized], "r0"), 0, "too big");
    assert_eq!(active(&[structured(), both()], "ro"), 0, "another export");
    assert_eq!(
        active(&[structured(), set("ro", &["base:allocation"])], "ro"),
        0,
        "an export without contexts"
    );
    let list = export_option(code::LIST_META_CONTEXT, "r0", &[]);
    assert_eq!(active(&[structured(), both(), list], "r0"), 2, "LIST changes nothing");
}

#[test]
fn contexts_need_structured_replies() {
    for which in [code::LIST_META_CONTEXT, code::SET_META_CONTEXT] {
        assert_eq!(kinds(&[export_option(which, "r0", &["base:allocation"])]), [reply::ERR_INVALID]);
    }
    assert_eq!(active(&[export_option(code::SET_META_CONTEXT, "r0", &["base:allocation"])], "r0"), 0);
}

#[test]
fn a_stopping_server_refuses_all_but_abort() {
    let mut harness = session(&[structured()]);
    harness.drain();
    harness.feed(&info_option(code::GO, "r0", &[]));
    harness.feed(&option(code::LIST, b""));
    harness.feed(&option(code::ABORT, b""));
    let kinds: Vec<_> = harness.option_replies().iter().map(|reply| reply.kind).collect();
    assert_eq!(kinds, [reply::ACK, reply::ERR_SHUTDOWN, reply::ERR_SHUTDOWN, reply::ACK]);
    assert!(harness.is_closed());
    let mut harness = session(&[]);
    harness.drain();
    harness.feed(&option(code::EXPORT_NAME, b"r0"));
    assert!(harness.is_closed() && harness.export_reply().is_empty());
}
