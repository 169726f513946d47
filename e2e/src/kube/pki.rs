//! The cluster's certificate authority, and the certificates that it signs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

/// A certificate authority whose files are in one folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority, and a key pair for the tokens of service accounts: `ca.crt`, `sa.key` and `sa.pub`.
    pub fn make(folder: &Path) -> Result<Authority> {
        fs::create_dir_all(folder)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "peili-e2e");
        fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
        let tokens = KeyPair::generate()?;
        fs::write(folder.join("sa.key"), tokens.serialize_pem())?;
        fs::write(folder.join("sa.pub"), tokens.public_key_pem())?;
        Ok(Authority {
            folder: folder.to_owned(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Signs a certificate for clients and servers: `<file>.crt` and `<file>.key`. `group`: the user's group in
    /// Kubernetes; `names`: host names and addresses.
    pub fn sign(&self, file: &str, user: &str, group: &str, names: &[&str]) -> Result<()> {
        let names: Vec<_> = names.iter().copied().map(str::to_owned).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, user);
        if !group.is_empty() {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.path(&format!("{file}.crt")), certificate.pem())?;
        fs::write(self.path(&format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    }

    /// The path of a file of the authority.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }
}

/// The configuration with which a program accesses the API server at `server` as the user of `<file>.crt` in `folder`.
pub fn kubeconfig(server: &str, folder: &Path, file: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "e2e",
        "contexts": [{ "name": "e2e", "context": { "cluster": "e2e", "user": file } }],
        "clusters": [{
            "name": "e2e",
            "cluster": { "server": server, "certificate-authority": folder.join("ca.crt") },
        }],
        "users": [{
            "name": file,
            "user": {
                "client-certificate": folder.join(format!("{file}.crt")),
                "client-key": folder.join(format!("{file}.key")),
            },
        }],
    })
}
