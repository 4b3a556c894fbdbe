//! Certificates of clients, of which only those with certain names are let in (`client_allowed_sans`).

use std::{net::IpAddr, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::EndEntityCert;

/// A verifier that wants one of these names besides.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// DNS names, addresses and URIs, as they stand in a certificate.
    pub(super) names: Vec<String>,
}

impl Named {
    fn has_name(&self, cert: &EndEntityCert<'_>) -> bool {
        // No wildcard stands for others: as Go compares them.
        let mut texts = cert.valid_dns_names().chain(cert.valid_uri_names());
        let is_address = |name: &String| {
            let address: Result<IpAddr, _> = name.parse();
            address.is_ok_and(|address| {
                let address = ServerName::from(address);
                cert.verify_is_valid_for_subject_name(&address).is_ok()
            })
        };
        texts.any(|text| self.names.iter().any(|name| name == text))
            || self.names.iter().any(is_address)
    }
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .verifier
            .verify_client_cert(end_entity, intermediates, now)?;
        let has_name = EndEntityCert::try_from(end_entity).is_ok_and(|cert| self.has_name(&cert));
        has_name.then_some(verified).ok_or_else(|| {
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
