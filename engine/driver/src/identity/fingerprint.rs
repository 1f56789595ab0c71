//! The name of a key: SHA-256 of its SubjectPublicKeyInfo (RFC 5280), as text `sha256:` and 64 hex digits.

use std::{fmt, str::FromStr};

use rustls::server::ParsedCertificate;
use rustls_pki_types::CertificateDer;
use thiserror::Error;

const PREFIX: &str = "sha256:";

/// Names a node's key. Two certificates with the same key have the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

/// Text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no fingerprint: one is `sha256:` and 64 hex digits, as `evenkeel init` prints it")]
pub struct NoFingerprint(String);

impl Fingerprint {
    /// Of a SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn of_public_key(spki: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, spki);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Of the key in a certificate.
    ///
    /// # Errors
    /// The certificate cannot be read. The parser is the one that TLS verifies signatures with, so both look at
    /// the same key.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        Ok(Self::of_public_key(&parsed.subject_public_key_info()))
    }

    /// The digest.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let mut digest = [0; 32];
        text.strip_prefix(PREFIX)
            .and_then(|digits| hex::decode_to_slice(digits, &mut digest).ok())
            .map(|()| Self(digest))
            .ok_or_else(|| NoFingerprint(text.chars().take(100).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let fingerprint = Fingerprint::of_public_key(b"some key");
        let text = fingerprint.to_string();
        assert_eq!(text.len(), "sha256:".len() + 64);
        assert_eq!(text.parse(), Ok(fingerprint));
        assert_eq!(text.to_uppercase().replace("SHA256:", "sha256:").parse(), Ok(fingerprint));
    }

    #[test]
    fn other_text_is_refused_and_named() {
        let digits = "ab".repeat(32);
        for text in [
            "",
            "sha256:",
            &digits,
            &format!("sha256:{digits}a"),
            &format!("sha256:{}g", &digits[1..]),
            &format!("sha1:{digits}"),
        ] {
            let error = text.parse::<Fingerprint>().expect_err("no fingerprint");
            assert!(error.to_string().contains("evenkeel init"), "{error}");
        }
    }
}
