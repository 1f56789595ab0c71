//! Hostile clients: whatever they do, the server does not panic, its memory stays bounded, a good client that
//! works meanwhile gets every reply and each of them right, and SIGTERM still ends the server in time.
//!
//! Each entry of the list of past vulnerabilities in NBD servers (CVE numbers) is a test named after it, in
//! `cve.rs`. The good client is [`evenkeel_tests::raw::verifier::Verifier`].

mod crowd;
mod cve;
mod disconnect;
mod siege;
mod slow;
mod stop;
