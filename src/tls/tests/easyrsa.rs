//! What EasyRSA 3 makes, used as its README says; and the subject vector of OpenVPN 3.

use std::process::Command;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::support::*;
use crate::profile::{CertUsage, KeySource, X509Name};
use crate::tls::{TlsConfig, TlsErrorKind, TlsFactory, key_needs_passphrase};

#[test]
fn easyrsa_pki() {
    for arguments in [&["--use-algo=rsa"][..], &["--use-algo=ec", "--curve=secp384r1"]] {
        let directory = tempfile::tempdir().unwrap();
        let pki = directory.path().join("pki");
        let easyrsa = |words: &str| {
            let output = Command::new("/usr/share/easy-rsa/easyrsa")
                .arg("--batch")
                .arg(format!("--pki-dir={}", pki.display()))
                .args(arguments)
                .args(words.split(' '))
                .current_dir(directory.path())
                .output()
                .expect("the Debian package easy-rsa is needed");
            assert!(
                output.status.success(),
                "{words}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        };
        easyrsa("init-pki");
        easyrsa("build-ca nopass");
        easyrsa("build-server-full server nopass");
        easyrsa("build-server-full old-server nopass");
        easyrsa("build-client-full other-user nopass");
        easyrsa("--passout=pass:secret build-client-full user");
        let server = |name: &str| {
            let chain =
                crate::tls::pem::certificates("cert", &read(&pki, &format!("issued/{name}.crt")));
            let key = PrivateKeyDer::from_pem_file(pki.join(format!("private/{name}.key")));
            (chain.unwrap(), key.unwrap())
        };
        let [good, revoked, client] = ["server", "old-server", "other-user"].map(server);
        easyrsa("revoke old-server");
        easyrsa("gen-crl");
        let mut options = options(&read(&pki, "ca.crt"));
        options.remote_cert_tls = Some(CertUsage::Server);
        options.verify_x509_name = Some(X509Name::NamePrefix("server".into()));
        options.crl = Some(read(&pki, "crl.pem"));
        options.cert = Some(read(&pki, "issued/user.crt"));
        options.key = Some(KeySource::Pem(read(&pki, "private/user.key").into()));
        assert!(key_needs_passphrase(&options));
        let config = TlsConfig::new(&options, Some(&"secret".into())).unwrap();
        let demanding = |(chain, key): (_, PrivateKeyDer<'static>)| {
            let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
            let key = rustls::sign::CertifiedKey::new(chain, key);
            let ca = crate::tls::pem::certificates("ca", &read(&pki, "ca.crt")).unwrap();
            Server::with_resolver(key, provider, &BOTH, Some(&ca[0]))
        };
        handshake(&config, &demanding(good)).unwrap();

        options.verify_x509_name = None;
        for (server, words) in [
            (revoked, ["crl-verify", "CN=old-server"]),
            // A client's certificate is no server's.
            (client, ["serverAuth", "CN=other-user"]),
        ] {
            let config = TlsConfig::new(&options, Some(&"secret".into())).unwrap();
            let mut server = demanding(server).accept();
            let error = pump(&mut *config.start().unwrap(), &mut server).unwrap_err();
            check(&error, TlsErrorKind::CertVerify, &words);
        }
    }
}

#[test]
fn subject_vector() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    openssl(
        path,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout s.key -out s.crt \
         -days 9 -subj /C=US/ST=CA/O=OpenVPN-TEST/CN=server-1.example.net/emailAddress=example-server@example.net",
    );
    let subject = "C=US, ST=CA, O=OpenVPN-TEST, CN=server-1.example.net, \
                   emailAddress=example-server@example.net";
    let chain = crate::tls::pem::certificates("cert", &read(path, "s.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(path.join("s.key")).unwrap();
    let mut options = options(&read(path, "s.crt"));
    options.verify_x509_name = Some(X509Name::Subject(subject.into()));
    let client = connect(&options, &Server::with(chain, key, &BOTH)).unwrap();
    assert_eq!(client.peer_certificate().unwrap().subject, subject);

    // Several values in one part of the name, and openssl's own spelling of every short name.
    openssl(
        path,
        "req -x509 -key s.key -out m.crt -days 9 -multivalue-rdn -utf8 -subj \
         /DC=example/UID=u+CN=two/serialNumber=7/SN=s/GN=g/title=t/street=r/postalCode=1/\
         businessCategory=b/dnQualifier=q/pseudonym=p/initials=i/generationQualifier=III/name=n/\
         description=d/unstructuredName=x/L=Köln",
    );
    let output = Command::new("openssl")
        .args(["x509", "-in", "m.crt", "-noout", "-subject", "-nameopt"])
        .arg("sep_comma_plus_space,sname,utf8,esc_ctrl")
        .current_dir(path)
        .output()
        .unwrap();
    let expected = String::from_utf8(output.stdout).unwrap();
    let chain = crate::tls::pem::certificates("cert", &read(path, "m.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(path.join("s.key")).unwrap();
    options.ca = Some(read(path, "m.crt"));
    options.verify_x509_name = None;
    let client = connect(&options, &Server::with(chain, key, &BOTH)).unwrap();
    let subject = client.peer_certificate().unwrap().subject;
    assert_eq!(format!("subject={subject}"), expected.trim_end());
}
