//! SOCKS 5, CONNECT (RFC 1928), with user name and password (RFC 1929). The proxy resolves the server's
//! name. UDP ASSOCIATE is not spoken: every data packet would need a header of its own.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::{PATIENCE, ProxyError, Request};
use crate::secret::Credentials;
use crate::transport::TransportError;
use crate::transport::socket::{Dial, Protect};

/// How errors call it.
const NAME: &str = "SOCKS proxy";

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;

/// Kinds of addresses (RFC 1928 section 5).
const IPV4: u8 = 1;
const NAMED: u8 = 3;
const IPV6: u8 = 4;

/// Version of the exchange of user name and password (RFC 1929 section 2).
const LOGIN_VERSION: u8 = 1;

/// A stream to the server, through the proxy that `dial` leads to.
pub(super) async fn open(
    request: Request<'_>,
    dial: &Dial<'_, impl Protect>,
) -> Result<TcpStream, TransportError> {
    let Some(_) = request.credentials else {
        // Offered all the same: only so the proxy tells that it wants a login.
        return attempt(request, dial, &[NO_AUTHENTICATION, USER_PASSWORD]).await;
    };
    // Alone: a proxy with a choice may take none, and then refuse by a rule that wants a login.
    match attempt(request, dial, &[USER_PASSWORD]).await {
        Err(TransportError::Proxy(ProxyError::NoMethod { .. })) => {
            attempt(request, dial, &[NO_AUTHENTICATION]).await
        }
        outcome => outcome,
    }
}

async fn attempt(
    request: Request<'_>,
    dial: &Dial<'_, impl Protect>,
    methods: &[u8],
) -> Result<TcpStream, TransportError> {
    let mut stream = dial.tcp().await?;
    run(&mut stream, request, methods).await?;
    Ok(stream)
}

async fn run(
    stream: &mut TcpStream,
    request: Request<'_>,
    methods: &[u8],
) -> Result<(), ProxyError> {
    // Before anything is sent: what does not fit never will.
    let connect = connect_request(request)?;
    let login = request.credentials.map(login_request).transpose()?;
    let mut greeting = vec![VERSION];
    push(&mut greeting, methods, "methods")?;
    send(stream, &greeting).await?;
    match receive(stream).await? {
        [VERSION, method] if method != NONE_ACCEPTABLE && !methods.contains(&method) => {
            return Err(malformed(format!("method {method} was not offered")));
        }
        [VERSION, NO_AUTHENTICATION] => {}
        [VERSION, USER_PASSWORD] => {
            let login = login.ok_or(ProxyError::NeedCredentials { proxy: NAME })?;
            send(stream, &login).await?;
            let [_, status] = receive(stream).await?;
            if status != 0 {
                return Err(ProxyError::BadCredentials { proxy: NAME });
            }
        }
        [VERSION, _] => {
            return Err(ProxyError::NoMethod {
                proxy: NAME,
                offered: "none of ours".to_owned(),
                hint: "it has to allow no authentication, or user name and password",
            });
        }
        [version, _] => return Err(malformed(format!("version {version} in place of 5"))),
    }
    send(stream, &connect).await?;
    let [version, reply, _, kind] = receive(stream).await?;
    if version != VERSION {
        return Err(malformed(format!("version {version} in place of 5")));
    }
    if reply != 0 {
        let (reason, transient) = meaning(reply);
        return Err(ProxyError::Refused {
            proxy: NAME,
            target: format!("{}:{}", request.host, request.port),
            reason: format!("{reason} ({reply})"),
            transient,
        });
    }
    // Where it connects from, which nobody needs; what follows belongs to OpenVPN.
    let address = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAMED => receive::<1>(stream).await?.map(usize::from)[0],
        other => return Err(malformed(format!("kind {other} of address"))),
    };
    let mut rest = [0; u8::MAX as usize + 2];
    read(stream, rest.get_mut(..address + 2).unwrap_or_default()).await
}

/// CONNECT to the server.
fn connect_request(request: Request<'_>) -> Result<Vec<u8>, ProxyError> {
    let Request { host, port, .. } = request;
    let mut message = vec![VERSION, CONNECT, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            message.push(IPV4);
            message.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            message.push(IPV6);
            message.extend(address.octets());
        }
        Err(_) => {
            message.push(NAMED);
            push(&mut message, host.as_bytes(), "host names")?;
        }
    }
    message.extend(port.to_be_bytes());
    Ok(message)
}

fn login_request(credentials: &Credentials) -> Result<Zeroizing<Vec<u8>>, ProxyError> {
    let (username, password) = (&credentials.username, credentials.password.expose());
    let mut message = Zeroizing::new(Vec::with_capacity(3 + username.len() + password.len()));
    message.push(LOGIN_VERSION);
    push(&mut message, username.as_bytes(), "user names")?;
    push(&mut message, password.as_bytes(), "passwords")?;
    Ok(message)
}

/// Bytes behind their number.
fn push(message: &mut Vec<u8>, bytes: &[u8], what: &str) -> Result<(), ProxyError> {
    let length = u8::try_from(bytes.len())
        .map_err(|_| malformed(format!("its protocol has no {what} of more than 255 bytes")))?;
    message.push(length);
    message.extend(bytes);
    Ok(())
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> Result<(), ProxyError> {
    stream.write_all(message).await.map_err(broken)
}

async fn receive<const N: usize>(stream: &mut TcpStream) -> Result<[u8; N], ProxyError> {
    let mut message = [0; N];
    read(stream, &mut message).await.map(|()| message)
}

async fn read(stream: &mut TcpStream, message: &mut [u8]) -> Result<(), ProxyError> {
    tokio::time::timeout(PATIENCE, stream.read_exact(message))
        .await
        .map_err(|_| broken(io::ErrorKind::TimedOut.into()))?
        .map(drop)
        .map_err(broken)
}

/// Of a reply (RFC 1928 section 6), and whether trying again later may help.
const fn meaning(reply: u8) -> (&'static str, bool) {
    match reply {
        1 => ("general failure", true),
        2 => ("its rules do not allow it", false),
        3 => ("network unreachable", true),
        4 => ("host unreachable", true),
        5 => ("connection refused", true),
        6 => ("TTL expired", true),
        7 => ("command not supported", false),
        8 => ("kind of address not supported", false),
        _ => ("unknown reason", false),
    }
}

const fn broken(source: io::Error) -> ProxyError {
    ProxyError::Io { proxy: NAME, source }
}

const fn malformed(reason: String) -> ProxyError {
    ProxyError::Malformed { proxy: NAME, reason }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The proxy answers each message with these bytes; what it heard, and what came of it.
    async fn talk(
        host: &str,
        login: Option<(&str, &str)>,
        answers: &[&[u8]],
    ) -> (Vec<Vec<u8>>, Result<Vec<u8>, ProxyError>) {
        let credentials = login.map(|(username, password)| Credentials {
            username: username.to_owned(),
            password: password.into(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut proxy, _) = listener.accept().await.unwrap();
        let request = Request { host, port: 0x1234, credentials: credentials.as_ref() };
        let client = async {
            let offer: &[u8] = match login {
                Some(_) => &[USER_PASSWORD],
                None => &[NO_AUTHENTICATION, USER_PASSWORD],
            };
            run(&mut ours, request, offer).await?;
            let mut rest = Vec::new();
            ours.read_to_end(&mut rest).await.map_err(broken)?;
            Ok(rest)
        };
        let server = async {
            let mut heard = Vec::new();
            for answer in answers {
                let mut message = vec![0; 600];
                let length = proxy.read(&mut message).await.unwrap();
                message.truncate(length);
                heard.push(message);
                proxy.write_all(answer).await.unwrap();
            }
            drop(proxy);
            heard
        };
        let (result, heard) = tokio::join!(client, server);
        (heard, result)
    }

    /// What the server says first comes with the proxy's last answer, and none of it is lost.
    #[tokio::test]
    async fn what_follows_is_the_servers() {
        let answers = [
            ("192.0.2.7", &b"\x05\0\0\x01\x0a\0\0\x01\0\x50hello"[..]),
            ("2001:db8::7", b"\x05\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50hello"),
            ("vpn.example", b"\x05\0\0\x03\x02ab\0\x50hello"),
        ];
        for (host, answer) in answers {
            let (heard, result) = talk(host, None, &[b"\x05\0", answer]).await;
            assert_eq!(result.unwrap(), b"hello", "{host}");
            assert_eq!(heard[0], b"\x05\x02\0\x02");
            let address: &[u8] = match host {
                "192.0.2.7" => b"\x01\xc0\0\x02\x07",
                "vpn.example" => b"\x03\x0bvpn.example",
                _ => b"\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07",
            };
            assert_eq!(heard[1], [b"\x05\x01\0", address, b"\x12\x34"].concat(), "{host}");
        }
    }

    #[tokio::test]
    async fn it_may_want_a_login() {
        let open = b"\x05\0\0\x01\0\0\0\0\0\0";
        let login = Some(("joe", "secret"));
        let (heard, result) = talk("a", login, &[b"\x05\x02", b"\x01\0", open]).await;
        assert!(result.unwrap().is_empty());
        assert_eq!(
            heard,
            [&b"\x05\x01\x02"[..], b"\x01\x03joe\x06secret", b"\x05\x01\0\x03\x01a\x12\x34"]
        );
        let (_, result) = talk("a", login, &[b"\x05\x02", b"\x01\x01"]).await;
        assert!(matches!(result, Err(ProxyError::BadCredentials { .. })), "{result:?}");
        let (_, result) = talk("a", None, &[b"\x05\x02"]).await;
        assert!(matches!(result, Err(ProxyError::NeedCredentials { .. })), "{result:?}");
        let (_, result) = talk("a", login, &[b"\x05\0"]).await;
        assert!(result.unwrap_err().to_string().contains("method 0 was not offered"));
        let (_, result) = talk("a", login, &[b"\x05\xff"]).await;
        assert!(matches!(result, Err(ProxyError::NoMethod { .. })), "{result:?}");
    }

    #[tokio::test]
    async fn it_may_refuse_or_be_no_proxy() {
        for (answers, told, transient) in [
            (&[&b"\x05\0"[..], b"\x05\x05\0\x01"][..], "a:4660: connection refused (5)", true),
            (&[b"\x05\0", b"\x05\x02\0\x01"], "do not allow it (2)", false),
            (&[b"\x05\0", b"\x05\x63\0\x01"], "unknown reason (99)", false),
            (&[b"\x05\0", b"\x05\0\0\x09"], "kind 9 of address", false),
            (&[b"\x05\0", b"\x04\0\0\x01"], "version 4 in place of 5", false),
            (&[b"HTTP/1.0 400"], "version 72 in place of 5", false),
            (&[b"\x05\x01"], "method 1 was not offered", false),
            (&[b"\x05"], "connection to the SOCKS proxy", true),
            (&[b"\x05\0", b"\x05\0\0\x01\0"], "connection to the SOCKS proxy", true),
        ] {
            let (_, result) = talk("a", None, answers).await;
            let error = result.unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
            assert_eq!(error.is_transient(), transient, "{error}");
        }
        let long = "a".repeat(256);
        for (host, login) in [(&*long, None), ("a", Some((&*long, ""))), ("a", Some(("", &*long)))]
        {
            let (heard, result) = talk(host, login, &[]).await;
            assert!(heard.is_empty() && result.unwrap_err().to_string().contains("255 bytes"));
        }
    }
}
