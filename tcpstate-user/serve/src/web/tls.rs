//! TLS by a web configuration.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

use super::{
    file::{ClientAuth, Curve, Pem, Tls, Version, unknown},
    sans::Named,
    yaml::Mistake,
};

/// The texts that a [`Tls`] names.
pub(super) struct Texts {
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) client_ca: Option<Vec<u8>>,
}

/// Makes what a server takes.
///
/// *Errors:* certificates or keys cannot be used, or do not go together.
pub(super) fn server_config(tls: &Tls, texts: &Texts) -> Result<Arc<ServerConfig>, Mistake> {
    let together = |error: rustls::Error| Mistake::new(tls.line, error.to_string());
    let provider = Arc::new(provider(tls)?);
    let versions = versions(tls);
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(together)?;
    let config = match (&tls.client_ca, &texts.client_ca) {
        (Some(ca), Some(text)) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca, text)?), provider);
            let verifier = match tls.client_auth {
                ClientAuth::RequireAndVerify => verifier,
                ClientAuth::VerifyIfGiven | ClientAuth::None => verifier.allow_unauthenticated(),
            };
            let verifier = verifier
                .build()
                .map_err(|error| wrong(ca, &error.to_string()))?;
            config.with_client_cert_verifier(if tls.client_names.is_empty() {
                verifier
            } else {
                Arc::new(Named {
                    verifier,
                    names: tls.client_names.clone(),
                })
            })
        }
        _ => config.with_no_client_auth(),
    };
    let chain = certificates(&tls.cert, &texts.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&texts.key)
        .map_err(|_| wrong(&tls.key, "there is no private key in PEM"))?;
    let mut config = config
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&tls.key, &error.to_string()))?;
    config.ignore_client_order = tls.prefer_server_cipher_suites;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn wrong(pem: &Pem, why: &str) -> Mistake {
    Mistake::new(pem.line, format!("`{}`: {why}", pem.name))
}

fn certificates(pem: &Pem, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Mistake> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(wrong(pem, "there is no certificate in PEM")),
    }
}

fn roots(pem: &Pem, text: &[u8]) -> Result<RootCertStore, Mistake> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, text)? {
        roots
            .add(certificate)
            .map_err(|error| wrong(pem, &error.to_string()))?;
    }
    Ok(roots)
}

fn versions(tls: &Tls) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(Version::Tls13, &TLS13), (Version::Tls12, &TLS12)];
    let wanted = all
        .into_iter()
        .filter(|(version, _)| (tls.min_version..=tls.max_version).contains(version));
    wanted.map(|(_, version)| version).collect()
}

/// The cipher suites and curves that are wanted.
fn provider(tls: &Tls) -> Result<CryptoProvider, Mistake> {
    let mut provider = ring::default_provider();
    if !tls.cipher_suites.is_empty() {
        // Those of TLS 1.3 cannot be chosen, as in Go.
        let (mut wanted, tls12): (Vec<_>, Vec<_>) = provider
            .cipher_suites
            .into_iter()
            .partition(|suite| suite.tls13().is_some());
        for (line, name) in &tls.cipher_suites {
            let suite = tls12.iter().find(|suite| go_name(**suite) == *name);
            let suite = suite.ok_or_else(|| {
                let names: Vec<String> = tls12.iter().map(|suite| go_name(*suite)).collect();
                let known = names.iter().map(String::as_str);
                Mistake::new(*line, unknown("cipher suite of TLS 1.2", name, "", known))
            })?;
            wanted.push(*suite);
        }
        provider.cipher_suites = wanted;
    }
    if !tls.curves.is_empty() {
        let group = |curve: &Curve| -> &'static dyn SupportedKxGroup {
            match curve {
                Curve::P256 => ring::kx_group::SECP256R1,
                Curve::P384 => ring::kx_group::SECP384R1,
                Curve::X25519 => ring::kx_group::X25519,
            }
        };
        provider.kx_groups = tls.curves.iter().map(group).collect();
    }
    Ok(provider)
}

/// The name that such files have for a cipher suite.
fn go_name(suite: SupportedCipherSuite) -> String {
    suite
        .suite()
        .as_str()
        .map_or_else(String::new, str::to_owned)
}
