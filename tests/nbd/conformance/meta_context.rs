//! Choosing metadata contexts (spec: "Metadata querying", "The `base:` metadata namespace",
//! "NBD_OPT_LIST_META_CONTEXT", "NBD_OPT_SET_META_CONTEXT").

use anyhow::{Context, Result, ensure};
use evenkeel_tests::raw::{
    Errno, Transmission,
    handshake::meta_data,
    protocol::{STRING_LIMIT, command, command_flag, option, option_reply},
};

use crate::common::{BLOCK, EXPORT, handshake, serve};

const ALLOCATION: &str = "base:allocation";
const BOTH: [u32; 2] = [option::LIST_META_CONTEXT, option::SET_META_CONTEXT];

/// BLOCK_STATUS on a connection without an active context is refused, and leaves the stream in step.
fn check_no_context(mut client: Transmission) -> Result<()> {
    client.call(command::BLOCK_STATUS, command_flag::NONE, 0, BLOCK, &[])?.expect(Errno::EINVAL)?;
    client.check_in_step()
}

/// BLOCK_STATUS is answered in exactly one context.
fn check_one_context(mut client: Transmission) -> Result<()> {
    let reply = client.call(command::BLOCK_STATUS, command_flag::NONE, 0, BLOCK, &[])?.expect(Errno::OK)?;
    assert_eq!(reply.extents()?.len(), 1);
    Ok(())
}

/// Spec "NBD_OPT_LIST_META_CONTEXT": with zero queries the server MUST return all contexts of the export.
#[test]
fn list_meta_context_without_queries_returns_all() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    let data = meta_data(EXPORT.as_bytes(), &[]);
    let contexts = client.option(option::LIST_META_CONTEXT, &data)?.contexts()?;
    ensure!(contexts.iter().any(|(_, name)| name == ALLOCATION), "{contexts:?}");
    for (_, name) in &contexts {
        let (namespace, leaf) = name.split_once(':').context("a context has a namespace and a colon")?;
        // Spec "Metadata querying": base, nbd-server, x-*, or a registered one.
        ensure!(namespace == "base" || namespace.starts_with("x-") || namespace == "qemu", "{name}");
        ensure!(!leaf.is_empty(), "{name}");
    }
    Ok(())
}

/// Spec "NBD_OPT_LIST_META_CONTEXT": those that match a query; when none does, a single ACK.
#[test]
fn list_meta_context_returns_what_matches() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    let mut list = |queries: &[&str]| -> Result<Vec<String>> {
        let data = meta_data(EXPORT.as_bytes(), queries);
        let contexts = client.option(option::LIST_META_CONTEXT, &data)?.contexts()?;
        Ok(contexts.into_iter().map(|(_, name)| name).collect())
    };
    assert_eq!(list(&[ALLOCATION])?, [ALLOCATION]);
    assert_eq!(list(&["x-nobody:nothing", ALLOCATION, "base:unheard-of"])?, [ALLOCATION]);
    ensure!(list(&["x-nobody:nothing"])?.is_empty(), "a context for an unknown namespace");
    ensure!(list(&["base:unheard-of"])?.is_empty(), "a context for an unknown leaf");
    Ok(())
}

/// Spec "The `base:` metadata namespace": `base:` MUST be supported as a wildcard of LIST.
#[test]
fn base_namespace_wildcard_lists_base_contexts() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    let data = meta_data(EXPORT.as_bytes(), &["base:"]);
    let contexts = client.option(option::LIST_META_CONTEXT, &data)?.contexts()?;
    let names: Vec<_> = contexts.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, [ALLOCATION]);
    Ok(())
}

/// Spec "The `base:` metadata namespace": `base:` MUST be ignored by SET; it selects nothing.
#[test]
fn base_namespace_wildcard_selects_nothing() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    ensure!(client.set_meta_context(EXPORT, &["base:"])?.is_empty(), "`base:` selected a context");
    check_no_context(client.go(EXPORT)?)
}

/// Spec "The `base:` metadata namespace": an unknown leaf name MUST be ignored rather than be an error; so
/// MUST queries of unknown namespaces ("NBD_OPT_LIST_META_CONTEXT").
#[test]
fn base_namespace_unknown_leaf_is_ignored() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    let queries = ["base:unheard-of", "x-nobody:", "x-nobody:nothing", "qemu:dirty-bitmap:none"];
    ensure!(client.set_meta_context(EXPORT, &queries)?.is_empty(), "unknown queries selected a context");
    let selected = client.set_meta_context(EXPORT, &["base:unheard-of", ALLOCATION, "x-nobody:nothing"])?;
    assert_eq!(selected.len(), 1);
    assert_eq!(selected[0].1, ALLOCATION);
    check_one_context(client.go(EXPORT)?)
}

/// Spec "NBD_OPT_SET_META_CONTEXT": one reply for each selected context, each with an id of its own; the same
/// query twice selects one context.
#[test]
fn set_meta_context_selects_each_once() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    let selected = client.set_meta_context(EXPORT, &[ALLOCATION, ALLOCATION])?;
    assert_eq!(selected.len(), 1, "{selected:?}");
    check_one_context(client.go(EXPORT)?)
}

/// Spec "NBD_OPT_SET_META_CONTEXT": all contexts that LIST names can be selected together, with ids of their
/// own, and each BLOCK_STATUS is then answered in each of them.
#[test]
fn set_meta_context_takes_all_that_list_names() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    let data = meta_data(EXPORT.as_bytes(), &[]);
    let listed = client.option(option::LIST_META_CONTEXT, &data)?.contexts()?;
    let queries: Vec<&str> = listed.iter().map(|(_, name)| name.as_str()).collect();
    let selected = client.set_meta_context(EXPORT, &queries)?;
    assert_eq!(selected.len(), listed.len());
    let mut ids: Vec<u32> = selected.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), selected.len(), "ids are not unique: {selected:?}");
    let mut client = client.go(EXPORT)?;
    let reply = client.call(command::BLOCK_STATUS, command_flag::NONE, 0, BLOCK, &[])?.expect(Errno::OK)?;
    let mut answered: Vec<u32> = reply.extents()?.iter().map(|(id, _)| *id).collect();
    answered.sort_unstable();
    assert_eq!(answered, ids, "exactly one chunk for each selected context");
    Ok(())
}

/// Spec "NBD_OPT_SET_META_CONTEXT": with zero queries the server MUST select none; this replaces what was
/// selected before.
#[test]
fn set_meta_context_without_queries_selects_none() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    assert_eq!(client.set_meta_context(EXPORT, &[ALLOCATION])?.len(), 1);
    ensure!(client.set_meta_context(EXPORT, &[])?.is_empty(), "zero queries selected a context");
    check_no_context(client.go(EXPORT)?)
}

/// Spec "NBD_OPT_SET_META_CONTEXT": it replaces all contexts set before, including when it fails: for an
/// unknown export, and for data that lie about their lengths.
#[test]
fn set_meta_context_that_fails_replaces_the_set() -> Result<()> {
    let server = serve()?;
    let mut lying = meta_data(EXPORT.as_bytes(), &[ALLOCATION]);
    lying[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let failures = [
        (meta_data(b"no such export", &[ALLOCATION]), option_reply::ERR_UNKNOWN),
        (lying, option_reply::ERR_INVALID),
        (Vec::new(), option_reply::ERR_INVALID),
    ];
    for (data, error) in failures {
        let mut client = handshake(&server)?.structured()?;
        assert_eq!(client.set_meta_context(EXPORT, &[ALLOCATION])?.len(), 1);
        client.option(option::SET_META_CONTEXT, &data)?.refused(&[error])?;
        check_no_context(client.go(EXPORT)?)?;
    }
    Ok(())
}

/// Spec "NBD_OPT_SET_META_CONTEXT": the last one counts, also after failures and empty sets.
#[test]
fn set_meta_context_last_one_counts() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    client.set_meta_context(EXPORT, &[])?;
    let data = meta_data(b"no such export", &[ALLOCATION]);
    client.option(option::SET_META_CONTEXT, &data)?.refused(&[option_reply::ERR_UNKNOWN])?;
    assert_eq!(client.set_meta_context(EXPORT, &[ALLOCATION])?.len(), 1);
    check_one_context(client.go(EXPORT)?)
}

/// Spec "NBD_OPT_LIST_META_CONTEXT": it lists only; what is set stays set.
#[test]
fn list_meta_context_changes_nothing() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    assert_eq!(client.set_meta_context(EXPORT, &[ALLOCATION])?.len(), 1);
    client.option(option::LIST_META_CONTEXT, &meta_data(EXPORT.as_bytes(), &[]))?.contexts()?;
    check_one_context(client.go(EXPORT)?)
}

/// Spec "NBD_OPT_SET_META_CONTEXT": without structured replies the server SHOULD answer ERR_INVALID; LIST MAY
/// be answered so.
#[test]
fn set_meta_context_needs_structured_replies() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?;
    let data = meta_data(EXPORT.as_bytes(), &[ALLOCATION]);
    client.option(option::SET_META_CONTEXT, &data)?.refused(&[option_reply::ERR_INVALID])?;
    let answer = client.option(option::LIST_META_CONTEXT, &data)?;
    if answer.last.is_error() {
        answer.refused(&[option_reply::ERR_INVALID])?;
    }
    // Negotiating them afterwards does not bring the refused set back.
    check_no_context(client.structured()?.go(EXPORT)?)
}

/// Spec "Metadata querying": contexts count only for the export name that was given with them; after GO by
/// another name (here the empty one, which leads to the same export) there are none.
#[test]
fn metadata_querying_needs_the_same_name_in_go() -> Result<()> {
    let server = serve()?;
    let mut client = handshake(&server)?.structured()?;
    assert_eq!(client.set_meta_context(EXPORT, &[ALLOCATION])?.len(), 1);
    check_no_context(client.go("")?)?;
    let mut client = handshake(&server)?.structured()?;
    assert_eq!(client.set_meta_context("", &[ALLOCATION])?.len(), 1);
    check_no_context(client.export_name(EXPORT)?)?;
    // The same name both times, by either way in.
    let mut client = handshake(&server)?.structured()?;
    assert_eq!(client.set_meta_context("", &[ALLOCATION])?.len(), 1);
    check_one_context(client.go("")?)?;
    let mut client = handshake(&server)?.structured()?;
    assert_eq!(client.set_meta_context(EXPORT, &[ALLOCATION])?.len(), 1);
    check_one_context(client.export_name(EXPORT)?)
}

/// Spec "NBD_OPT_LIST_META_CONTEXT": data whose lengths would need reading beyond the option MUST be refused
/// with ERR_INVALID; the stream stays in step.
#[test]
fn meta_context_lying_lengths_are_invalid_and_leave_the_stream_in_step() -> Result<()> {
    let server = serve()?;
    let good = meta_data(EXPORT.as_bytes(), &[ALLOCATION]);
    let name_end = 4 + EXPORT.len();
    let mut lies = vec![Vec::new(), vec![0; 3], vec![0; 4], vec![0; 7], good[..good.len() - 1].to_vec()];
    for lie in [2, 1000, 0x7fff_ffff, 0xffff_fff0, u32::MAX] {
        // The length of the name, the count of queries, the length of the query.
        for position in [0, name_end, name_end + 4] {
            let mut data = good.clone();
            data[position..position + 4].copy_from_slice(&u32::to_be_bytes(lie));
            lies.push(data);
        }
    }
    let mut longer = good.clone();
    longer.extend_from_slice(b"more than the lengths account for");
    lies.push(longer);
    for option in BOTH {
        for some in lies.chunks(8) {
            let mut client = handshake(&server)?.structured()?;
            for data in some {
                client
                    .option(option, data)?
                    .refused(&[option_reply::ERR_INVALID])
                    .with_context(|| format!("option {option}, data {data:02x?}"))?;
                client.check_in_step()?;
            }
            check_no_context(client.go(EXPORT)?)?;
        }
    }
    Ok(())
}

/// Spec "NBD_OPT_SET_META_CONTEXT": an unknown export is refused.
#[test]
fn meta_context_unknown_export_is_refused() -> Result<()> {
    let server = serve()?;
    for option in BOTH {
        let mut client = handshake(&server)?.structured()?;
        for name in [b"no such export".as_slice(), b"\xff\xfe", &[b'n'; STRING_LIMIT]] {
            let answer = client.option(option, &meta_data(name, &[ALLOCATION]))?;
            answer.refused(&[option_reply::ERR_UNKNOWN, option_reply::ERR_INVALID])?;
        }
        client.check_in_step()?;
    }
    Ok(())
}

/// Spec "NBD_OPT_LIST_META_CONTEXT": a query without the colon, one that is not UTF-8 and an empty one are
/// invalid (MAY be refused) or select nothing; one of 4096 bytes is a query like any other.
#[test]
fn meta_context_odd_queries_select_nothing() -> Result<()> {
    let server = serve()?;
    let long = format!("x-{}:y", "n".repeat(STRING_LIMIT - 4));
    for option in BOTH {
        let mut client = handshake(&server)?.structured()?;
        ensure!(
            client.option(option, &meta_data(EXPORT.as_bytes(), &[&long]))?.contexts()?.is_empty(),
            "an unknown long query matched"
        );
        for query in ["", "allocation", "base", ":", ":allocation", "base:allocation\0"] {
            let answer = client.option(option, &meta_data(EXPORT.as_bytes(), &[query]))?;
            if answer.last.is_error() {
                answer.refused(&[option_reply::ERR_INVALID])?;
            } else {
                ensure!(answer.contexts()?.is_empty(), "the query {query:?} matched");
            }
        }
        client.check_in_step()?;
    }
    Ok(())
}

/// Spec "NBD_OPT_SET_META_CONTEXT": very many queries may be too big (MAY ERR_TOO_BIG), else they count.
#[test]
fn meta_context_many_queries_are_answered() -> Result<()> {
    let server = serve()?;
    for option in BOTH {
        let mut client = handshake(&server)?.structured()?;
        let mut queries = vec!["x-a:b"; 400];
        queries.push(ALLOCATION);
        let answer = client.option(option, &meta_data(EXPORT.as_bytes(), &queries))?;
        if answer.last.is_error() {
            answer.refused(&[option_reply::ERR_TOO_BIG])?;
        } else {
            assert_eq!(answer.contexts()?.len(), 1);
        }
        client.check_in_step()?;
    }
    Ok(())
}
