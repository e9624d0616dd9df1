//! A profile while it is read: what depends on several directives is put together at the end.

use std::net::IpAddr;

use ovpn_dco::{Cipher, Framing};

use super::compression::AllowCompression;
use super::directives::{self, Call, ProxyDraft};
use super::options::*;
use super::verdict::{Done, Problem};
use super::{dns, keyfile, network};
use crate::secret::Secret;

const DEFAULT_PORT: u16 = 1194;

/// Everything read so far.
pub(super) struct Draft {
    /// What needs nothing else to be known.
    pub options: Options,
    pub client: bool,
    pub tls_client: bool,
    pub pull: bool,
    pub remotes: Vec<RawRemote>,
    pub proto_force: Option<Protocol>,
    pub dev: Option<(String, usize)>,
    pub dev_type_tun: bool,
    /// `auth` as written, and its line.
    pub digest: Option<(String, usize)>,
    /// `tls-auth-digest`, which overrides `auth` for the control channel.
    pub tls_auth_digest: Option<Digest>,
    pub compression: Option<(String, usize)>,
    pub pkcs12: Option<Secret<Vec<u8>>>,
    pub no_client_cert: bool,
    pub external_pki: bool,
    pub meta_autologin: Option<bool>,
    /// Line of `cipher`.
    pub cipher: Option<usize>,
    /// `data-ciphers` is there.
    pub lists_ciphers: bool,
    /// `auth-token`
    pub token: Option<Secret<String>>,
    /// `auth-token-user`, decoded.
    pub token_user: Option<String>,
    /// Line of `auth-nocache`.
    pub nocache: Option<usize>,
    hindsight: Vec<(usize, Done)>,
    /// Outside of `<connection>` blocks.
    global: Endpoint,
    /// In `<connection>` blocks.
    blocks: Vec<Endpoint>,
}

/// `remote` as written.
pub(super) struct RawRemote {
    pub line: usize,
    pub host: String,
    pub port: Option<u16>,
    pub protocol: Option<(Protocol, Family)>,
    pub block: Option<usize>,
}

/// `tls-auth`, `tls-crypt`, `tls-crypt-v2`
#[derive(Clone)]
pub(super) enum RawWrap {
    Auth(StaticKey),
    Crypt(StaticKey),
    CryptV2(StaticKey, Vec<u8>),
}

/// What may be set for all servers and again in a `<connection>` block.
#[derive(Clone, Default)]
pub(super) struct Endpoint {
    pub protocol: Option<(Protocol, Family)>,
    pub port: Option<u16>,
    pub rport: Option<u16>,
    pub lport: Option<u16>,
    pub bind: Option<bool>,
    pub local: Option<IpAddr>,
    pub exit_notify: Option<u32>,
    pub proxy: ProxyDraft,
    pub wrap: Option<RawWrap>,
    /// Name and line.
    pub wrap_set_by: Option<(String, usize)>,
    pub key_direction: Option<KeyDirection>,
}

impl Endpoint {
    /// This block's settings, the rest from `global`.
    fn over(&self, global: &Self) -> Self {
        Self {
            protocol: self.protocol.or(global.protocol),
            // A port of either spelling in the block overrides both outside.
            port: self.port.or_else(|| global.port.filter(|_| self.rport.is_none())),
            rport: self.rport.or_else(|| global.rport.filter(|_| self.port.is_none())),
            lport: self.lport.or(global.lport),
            bind: self.bind.or(global.bind),
            local: self.local.or(global.local),
            exit_notify: self.exit_notify.or(global.exit_notify),
            proxy: self.proxy.over(&global.proxy),
            wrap: self.wrap.clone().or_else(|| global.wrap.clone()),
            wrap_set_by: None,
            key_direction: self.key_direction.or(global.key_direction),
        }
    }
}

/// A reason why the whole cannot be used: line and directive where one is to blame.
pub(super) type Fault = (Option<usize>, Option<String>, Problem);

/// A profile put together.
pub(super) struct Finished {
    /// Not usable if there are faults.
    pub options: Options,
    pub faults: Vec<Fault>,
    /// Lines whose verdict only the rest of the profile decides.
    pub hindsight: Vec<(usize, Done)>,
}

impl Draft {
    pub(super) fn new() -> Self {
        Self {
            options: Options::default(),
            client: false,
            tls_client: false,
            pull: false,
            remotes: Vec::new(),
            proto_force: None,
            dev: None,
            dev_type_tun: false,
            digest: None,
            tls_auth_digest: None,
            compression: None,
            pkcs12: None,
            no_client_cert: false,
            external_pki: false,
            meta_autologin: None,
            cipher: None,
            lists_ciphers: false,
            token: None,
            token_user: None,
            nocache: None,
            hindsight: Vec::new(),
            global: Endpoint::default(),
            blocks: Vec::new(),
        }
    }

    /// Where a directive's server settings go.
    pub(super) fn endpoint(&mut self, call: &Call<'_>) -> &mut Endpoint {
        match call.block {
            None => &mut self.global,
            Some(n) => {
                if self.blocks.len() <= n {
                    self.blocks.resize(n + 1, Endpoint::default());
                }
                &mut self.blocks[n]
            }
        }
    }

    /// Puts the rest together.
    pub(super) fn finish(mut self) -> Finished {
        let mut faults = Vec::new();
        let mut fault = |line, directive: Option<&str>, problem| {
            faults.push((line, directive.map(str::to_owned), problem));
        };
        let client = self.client || (self.tls_client && self.pull);
        if !client {
            fault(
                None,
                None,
                Problem::with_hint(
                    "neither 'client' nor both 'tls-client' and 'pull' are there",
                    "add the line 'client'",
                ),
            );
        }
        if let Err((line, directive, problem)) = self.finish_device() {
            fault(line, directive.as_deref(), problem);
        }
        match self.finish_wrap(&self.global) {
            Ok(wrap) => self.options.wrap = wrap,
            Err((line, directive, problem)) => fault(line, directive.as_deref(), problem),
        }
        if let Err((line, directive, problem)) = self.finish_remotes() {
            fault(line, directive.as_deref(), problem);
        }
        if let Err(problem) = self.finish_credentials() {
            fault(None, None, problem);
        }
        if let Err((line, directive, problem)) = self.finish_data() {
            fault(line, directive.as_deref(), problem);
        }
        if let Err(problem) = dns::check(&mut self.options.network.dns) {
            fault(None, Some("dns"), problem);
        }
        if let Err(problem) = network::check_topology(&self.options.network) {
            fault(None, Some("ifconfig"), problem);
        }
        if self.options.tls.version_min > self.options.tls.version_max {
            let problem = Problem::new("tls-version-min is above tls-version-max");
            fault(None, Some("tls-version-max"), problem);
        }
        Finished { options: self.options, faults, hindsight: self.hindsight }
    }

    fn finish_device(&mut self) -> Result<(), Fault> {
        let Some((name, line)) = self.dev.take() else { return Ok(()) };
        let fault = |problem| Err((Some(line), Some("dev".to_owned()), problem));
        if name.starts_with("tap") && !self.dev_type_tun {
            return fault(directives::tap());
        }
        if !name.starts_with("tun") && !self.dev_type_tun {
            return fault(Problem::with_hint(
                format!("the name '{name}' does not say which type the device has"),
                "add 'dev-type tun'",
            ));
        }
        self.options.device.name = name;
        Ok(())
    }

    fn finish_remotes(&mut self) -> Result<(), Fault> {
        let fault = |problem| Err((None, Some("remote".to_owned()), problem));
        if self.remotes.is_empty() {
            return fault(Problem::with_hint(
                "no server is given",
                "add 'remote HOST [PORT] [PROTO]'",
            ));
        }
        // Servers outside of blocks come first, then the blocks, each in the profile's order.
        self.remotes.sort_by_key(|r| (r.block.is_some(), r.line));
        let written = self.remotes.len();
        let mut proxied = None;
        let own_protocol = self.remotes.iter().any(|r| r.protocol.is_some())
            || self.blocks.iter().any(|block| block.protocol.is_some())
            || self.global.protocol.is_some();
        for raw in std::mem::take(&mut self.remotes) {
            let block = raw.block.and_then(|n| self.blocks.get(n));
            let endpoint = match block {
                Some(block) => block.over(&self.global),
                None => self.global.clone(),
            };
            let wrap = match block {
                Some(block) if block.wrap.is_some() || block.key_direction.is_some() => {
                    Some(self.finish_wrap(&endpoint)?)
                }
                _ => None,
            };
            let (protocol, family) =
                raw.protocol.or(endpoint.protocol).unwrap_or((Protocol::Udp, Family::Any));
            let port = raw.port.or(endpoint.rport).or(endpoint.port).unwrap_or(DEFAULT_PORT);
            let bind = endpoint.bind.unwrap_or_else(|| endpoint.lport.is_some());
            let local_port = bind
                .then(|| endpoint.lport.or(endpoint.port).unwrap_or(DEFAULT_PORT))
                .filter(|&port| port > 0);
            let local = endpoint.local;
            let exit_notify = endpoint.exit_notify.unwrap_or(0);
            let proxy = endpoint.proxy.finish();
            proxied = proxied.or_else(|| proxy.as_ref().map(Proxy::directive));
            let unused = match (self.proto_force, protocol) {
                (Some(forced), protocol) if forced != protocol => Some("proto-force".to_owned()),
                (_, Protocol::Udp) => {
                    proxy.as_ref().map(|proxy| format!("{}, which needs TCP", proxy.directive()))
                }
                _ => None,
            };
            if let Some(reason) = unused {
                let reason = format!("never used because of {reason}");
                self.hindsight.push((raw.line, Done::Warned(reason)));
                continue;
            }
            self.options.remotes.push(Remote {
                host: raw.host,
                port,
                protocol,
                family,
                proxy,
                explicit_exit_notify: if protocol == Protocol::Udp { exit_notify } else { 0 },
                local,
                local_port,
                wrap,
            });
        }
        if self.options.remotes.is_empty() {
            return fault(match self.proto_force {
                Some(_) => Problem::new(format!("proto-force leaves none of {written} servers")),
                None => {
                    let proxy = proxied.unwrap_or("a proxy");
                    Problem::with_hint(
                        format!(
                            "{proxy} needs a server that is reached over TCP, and there is none"
                        ),
                        // The protocol of a line of its own stands above that of all.
                        if own_protocol {
                            format!(
                                "write 'tcp' instead of 'udp' with the server, or remove {proxy}"
                            )
                        } else {
                            format!("add 'proto tcp', or remove {proxy}")
                        },
                    )
                }
            });
        }
        if let Some(directive) = proxied {
            self.options.data.dco_incompatible.push(directive.to_owned());
        }
        Ok(())
    }

    fn finish_credentials(&mut self) -> Result<(), Problem> {
        let tls = &mut self.options.tls;
        if tls.ca.is_none() && self.pkcs12.is_none() && tls.peer_fingerprints.is_empty() {
            return Err(Problem::with_hint(
                "nothing says which server to trust",
                "add 'ca' (or <ca>), or 'peer-fingerprint'",
            ));
        }
        let auth = &mut self.options.auth;
        // A token takes the place of both, as one that is pushed.
        if let Some(token) = self.token.take() {
            auth.user_pass = true;
            auth.username = self.token_user.take().or_else(|| auth.username.take());
            auth.password = Some(token);
        }
        let both = auth.is_complete();
        if let (true, Some(line)) = (both, self.nocache) {
            auth.nocache = false;
            let reason = "the profile holds user name and password; there is nothing to forget";
            self.hindsight.push((line, Done::Ignored(reason.to_owned())));
        }
        auth.autologin = match self.meta_autologin {
            _ if both => true,
            Some(value) => value,
            None => !auth.user_pass && !self.external_pki,
        };
        if let Some(pkcs12) = self.pkcs12.take() {
            tls.key = Some(KeySource::Pkcs12(pkcs12));
            return Ok(());
        }
        if self.no_client_cert {
            tls.cert = None;
            tls.key = None;
            return Ok(());
        }
        match (tls.cert.is_some(), tls.key.is_some()) {
            (true, true) => Ok(()),
            _ if self.external_pki => {
                tls.key = Some(KeySource::External);
                Ok(())
            }
            (false, false) if auth.user_pass => Ok(()),
            (false, false) => Err(Problem::with_hint(
                "nothing says who this client is: no 'cert' and 'key', no 'auth-user-pass'",
                "add <cert> and <key>, or auth-user-pass; or 'setenv CLIENT_CERT 0' if the server \
                 wants neither",
            )),
            (true, false) => Err(Problem::with_hint(
                "'cert' without 'key'",
                "add the private key of the certificate, or '# OVPN_ACCESS_SERVER_EXTERNAL_PKI=1' \
                 if the key is external",
            )),
            (false, true) => {
                Err(Problem::with_hint("'key' without 'cert'", "add the certificate of the key"))
            }
        }
    }

    fn finish_wrap(&self, endpoint: &Endpoint) -> Result<WrapOptions, Fault> {
        let digest = self.tls_auth_digest.unwrap_or(self.options.data.digest);
        Ok(match endpoint.wrap.clone() {
            None => WrapOptions::None,
            Some(RawWrap::Crypt(key)) => WrapOptions::TlsCrypt { key },
            Some(RawWrap::CryptV2(key, wrapped)) => WrapOptions::TlsCryptV2 { key, wrapped },
            Some(RawWrap::Auth(key)) => {
                if let (None, Some((name, line))) = (self.tls_auth_digest, &self.digest)
                    && directives::digest(name).is_none()
                {
                    let problem = directives::unsupported_digest(name);
                    return Err((Some(*line), Some("auth".to_owned()), problem));
                }
                let direction = endpoint.key_direction;
                if direction.is_some() && key.expose().len() == keyfile::HALF_KEY_LEN {
                    return Err((
                        None,
                        Some("tls-auth".to_owned()),
                        Problem::new("a key-direction needs a key of 256 bytes, this one has 128"),
                    ));
                }
                WrapOptions::TlsAuth { key, direction, digest }
            }
        })
    }

    fn finish_data(&mut self) -> Result<(), Fault> {
        let data = &mut self.options.data;
        if let Some(cipher) = data.occ_cipher.as_deref().and_then(Cipher::from_name) {
            let listed = data.ciphers.contains(&cipher);
            // Without data-ciphers a profile is of a time when `cipher` was what both sides used.
            if listed || !cipher.is_aead() && !self.lists_ciphers {
                // Old servers use what `cipher` says without negotiating.
                data.fallback.get_or_insert(cipher);
            }
            let note = if data.fallback == Some(cipher) {
                "used with a server that does not negotiate, in user space; else negotiated among \
                 data-ciphers"
            } else {
                "not in data-ciphers: only told to the server, and not used"
            };
            if let Some(line) = self.cipher.filter(|_| !listed) {
                self.hindsight.push((line, Done::Noted(note.to_owned())));
            }
        }
        if let Some((name, line)) = &self.digest {
            data.cbc_digest = directives::digest(name);
            if data.cbc_digest.is_none() {
                data.ciphers.retain(|cipher| cipher.is_aead());
                data.fallback = data.fallback.filter(|cipher| cipher.is_aead());
            }
            if data.ciphers.is_empty() {
                let problem = directives::unsupported_digest(name);
                return Err((Some(*line), Some("auth".to_owned()), problem));
            }
        }
        if let Some(digest) = data.cbc_digest {
            for cipher in data.ciphers.iter_mut().chain(&mut data.fallback) {
                *cipher = cipher.with_digest(digest);
            }
        }
        data.tun_mtu_max = data.tun_mtu_max.max(data.tun_mtu);
        if data.disable_dco {
            data.dco_incompatible.push("disable-dco".to_owned());
        }
        if let Some((name, line)) = self.compression.take() {
            data.dco_incompatible.push(name);
            let compresses = data.framing.is_some_and(Framing::compresses);
            if compresses && data.allow_compression == AllowCompression::No {
                let why = "allow-compression no: what the server compresses is dropped";
                self.hindsight.push((line, Done::Warned(why.to_owned())));
            }
        }
        Ok(())
    }
}
