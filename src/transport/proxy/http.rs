//! HTTP CONNECT through a proxy, with Basic or Digest authentication (RFC 9110 section 9.3.6,
//! RFC 7616, RFC 7617). NTLM is refused: it is withdrawn, and OpenVPN drops it too.

use std::io;

use http_auth::{PasswordClient, PasswordParams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{PATIENCE, ProxyError, Request};
use crate::profile::{HttpProxy, ProxyAuth};
use crate::secret::{Credentials, Secret};
use crate::transport::TransportError;
use crate::transport::socket::{Dial, Protect};

/// How errors call it.
const NAME: &str = "HTTP proxy";
/// A proxy's answer may be this long, with this many header lines.
const MAX_ANSWER: usize = 64 * 1024;
const MAX_HEADERS: usize = 256;

/// A proxy that wants authentication may close the connection after saying so, so this connects
/// twice at most.
pub(super) async fn open(
    proxy: &HttpProxy,
    request: Request<'_>,
    dial: &Dial<'_, impl Protect>,
) -> Result<TcpStream, TransportError> {
    let mut connect = Connect::new(proxy, request);
    loop {
        let mut stream = dial.tcp().await?;
        match connect.run(&mut stream).await? {
            Step::Open => return Ok(stream),
            Step::Again => {}
        }
    }
}

/// What [`Connect::run`] came to.
enum Step {
    /// The tunnel is open.
    Open,
    /// Connect again and run once more, now with authentication.
    Again,
}

/// A CONNECT request, repeated once with credentials where the proxy wants them.
struct Connect<'a> {
    proxy: &'a HttpProxy,
    credentials: Option<&'a Credentials>,
    /// `host:port`
    target: String,
    host: &'a str,
    authorization: Option<Secret<String>>,
}

impl<'a> Connect<'a> {
    fn new(proxy: &'a HttpProxy, request: Request<'a>) -> Self {
        let Request { host, port, credentials } = request;
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let target = format!("{bracketed}:{port}");
        Self { proxy, credentials, target, host, authorization: None }
    }

    async fn run(&mut self, stream: &mut TcpStream) -> Result<Step, ProxyError> {
        let request = zeroize::Zeroizing::new(self.request());
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        let head = tokio::time::timeout(PATIENCE, read_head(stream))
            .await
            .map_err(|_| broken(io::ErrorKind::TimedOut.into()))??;
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        answer.parse(&head).map_err(|e| malformed(e.to_string()))?;
        match answer.code {
            Some(200) => Ok(Step::Open),
            Some(407) => {
                self.authorize(answer.headers)?;
                Ok(Step::Again)
            }
            status => {
                let status = status.unwrap_or(0);
                let text = answer.reason.unwrap_or_default();
                let text: String = text.chars().filter(|c| !c.is_control()).collect();
                Err(ProxyError::Refused {
                    proxy: NAME,
                    target: self.target.clone(),
                    reason: format!("{status} {text}"),
                    transient: matches!(status, 404 | 502..=504),
                })
            }
        }
    }

    fn request(&self) -> String {
        let proxy = self.proxy;
        let mut request = format!("CONNECT {} HTTP/{}\r\n", self.target, proxy.version);
        let mut has_host = false;
        for (name, value) in &proxy.custom_headers {
            has_host |= name.eq_ignore_ascii_case("host");
            match value {
                Some(value) => request.push_str(&format!("{name}: {value}\r\n")),
                None => request.push_str(&format!("{name}\r\n")),
            }
        }
        if let Some(agent) = &proxy.user_agent {
            request.push_str(&format!("User-Agent: {agent}\r\n"));
        }
        if !has_host {
            request.push_str(&format!("Host: {}\r\n", self.host));
        }
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization.expose());
            request.push_str("\r\n");
        }
        request + "\r\n"
    }

    fn authorize(&mut self, headers: &[httparse::Header<'_>]) -> Result<(), ProxyError> {
        if self.authorization.is_some() {
            return Err(ProxyError::BadCredentials { proxy: NAME });
        }
        let (client, schemes) = choose(headers);
        let no_method =
            |hint| ProxyError::NoMethod { proxy: NAME, offered: schemes.join(", "), hint };
        // Nobody is asked for credentials that no method here could make use of.
        let mut client = client.ok_or_else(|| no_method("only Basic and Digest are supported"))?;
        let credentials = self.credentials.ok_or(ProxyError::NeedCredentials { proxy: NAME })?;
        // The method that is about to be used, not the way in which it was offered.
        if self.proxy.auth == ProxyAuth::NoCleartext && !matches!(client, PasswordClient::Digest(_))
        {
            return Err(no_method(
                "Basic would show the password to everyone on the way; the override \
                 proxy-auth-cleartext, or `auto` in `http-proxy`, allows it",
            ));
        }
        let authorization = client
            .respond(&PasswordParams {
                username: &credentials.username,
                password: credentials.password.expose(),
                uri: &self.target,
                method: "CONNECT",
                body: Some(&[]),
            })
            .map_err(malformed)?;
        self.authorization = Some(Secret::new(authorization));
        Ok(())
    }
}

/// The best method among the challenges of an answer (Digest before Basic), and the names of all
/// that can be read, for people. A line that is not well-formed spoils only itself.
fn choose(headers: &[httparse::Header<'_>]) -> (Option<PasswordClient>, Vec<String>) {
    const SHOWN: usize = 8;
    let mut builder = PasswordClient::builder();
    let mut schemes = Vec::new();
    let lines = headers
        .iter()
        .filter(|h| h.name.eq_ignore_ascii_case("proxy-authenticate"))
        .filter_map(|h| std::str::from_utf8(h.value).ok());
    for line in lines {
        builder = builder.challenges(line);
        let challenges = http_auth::parse_challenges(line).unwrap_or_default();
        schemes.extend(challenges.iter().map(|challenge| challenge.scheme.to_owned()));
    }
    schemes.truncate(SHOWN);
    (builder.build().ok(), schemes)
}

/// Reads up to and including the empty line, and nothing after it: what follows belongs to OpenVPN.
async fn read_head(stream: &mut TcpStream) -> Result<Vec<u8>, ProxyError> {
    const END: &[u8] = b"\r\n\r\n";
    let mut head: Vec<u8> = Vec::new();
    let mut peeked = [0; 4096];
    loop {
        let n = stream.peek(&mut peeked).await.map_err(broken)?;
        if n == 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let start = head.len();
        head.extend_from_slice(peeked.get(..n).unwrap_or_default());
        let from = start.saturating_sub(END.len() - 1);
        let end = head
            .get(from..)
            .unwrap_or_default()
            .windows(END.len())
            .position(|window| window == END)
            .map(|at| from + at + END.len());
        head.truncate(end.unwrap_or(head.len()));
        let mut consumed = peeked;
        let ours = consumed.get_mut(..head.len() - start).unwrap_or_default();
        stream.read_exact(ours).await.map_err(broken)?;
        if end.is_some() {
            return Ok(head);
        }
        if head.len() > MAX_ANSWER {
            return Err(malformed("header over 64 KiB".to_owned()));
        }
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

    fn proxy(auth: ProxyAuth) -> HttpProxy {
        HttpProxy {
            auth,
            version: "1.0".to_owned(),
            user_agent: Some("test".to_owned()),
            custom_headers: vec![("X-Way".to_owned(), Some("out".to_owned()))],
        }
    }

    /// Answers one request; returns what was asked.
    async fn serve(listener: &TcpListener, answer: &'static str) -> (String, TcpStream) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        (String::from_utf8(head).unwrap(), stream)
    }

    async fn ask(
        proxy: &HttpProxy,
        credentials: Option<&Credentials>,
        answers: &'static [&'static str],
    ) -> (Result<Vec<u8>, ProxyError>, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (request, stream) = serve(&listener, answer).await;
                asked.push(request);
                drop(stream);
            }
            asked
        });
        let request = Request { host: "vpn.example.com", port: 443, credentials };
        let mut connect = Connect::new(proxy, request);
        let result = loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            match connect.run(&mut stream).await {
                Ok(Step::Again) => {}
                Ok(Step::Open) => {
                    let mut rest = Vec::new();
                    stream.read_to_end(&mut rest).await.unwrap();
                    break Ok(rest);
                }
                Err(e) => break Err(e),
            }
        };
        (result, server.await.unwrap())
    }

    #[tokio::test]
    async fn bytes_behind_the_answer_are_openvpns() {
        let (rest, asked) =
            ask(&proxy(ProxyAuth::None), None, &["HTTP/1.0 200 OK\r\nVia: x\r\n\r\n\0\x02ab"])
                .await;
        assert_eq!(rest.unwrap(), b"\0\x02ab");
        assert_eq!(
            asked[0],
            "CONNECT vpn.example.com:443 HTTP/1.0\r\nX-Way: out\r\nUser-Agent: test\r\n\
             Host: vpn.example.com\r\n\r\n"
        );
    }

    const BASIC: &str =
        "HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic realm=\"p\"\r\nContent-Length: 0\r\n\r\n";
    const DIGEST: &str = "HTTP/1.1 407 Auth\r\nProxy-Authenticate: Digest realm=\"proxy\", \
                          nonce=\"dcd98b\", qop=\"auth\", algorithm=MD5\r\n\r\n";

    fn credentials() -> Credentials {
        Credentials { username: "Mufasa".to_owned(), password: "Circle Of Life".into() }
    }

    #[tokio::test]
    async fn basic_and_digest() {
        let user = credentials();
        let (open, asked) =
            ask(&proxy(ProxyAuth::Any), Some(&user), &[BASIC, "HTTP/1.1 200 OK\r\n\r\n"]).await;
        assert!(open.is_ok());
        assert!(asked[1].contains("Proxy-Authorization: Basic TXVmYXNhOkNpcmNsZSBPZiBMaWZl\r\n"));
        let (open, asked) =
            ask(&proxy(ProxyAuth::NoCleartext), Some(&user), &[DIGEST, "HTTP/1.1 200 OK\r\n\r\n"])
                .await;
        assert!(open.is_ok());
        assert!(asked[1].contains("Proxy-Authorization: Digest username=\"Mufasa\""));
        assert!(asked[1].contains("uri=\"vpn.example.com:443\""));
    }

    #[tokio::test]
    async fn refusals_say_why() {
        let user = credentials();
        let (result, _) = ask(&proxy(ProxyAuth::Any), Some(&user), &[BASIC, BASIC]).await;
        assert!(matches!(result, Err(ProxyError::BadCredentials { .. })));
        // Also where the profile says nothing about authentication.
        for auth in [ProxyAuth::Any, ProxyAuth::None, ProxyAuth::NoCleartext] {
            let (result, _) = ask(&proxy(auth), None, &[BASIC]).await;
            assert!(matches!(result, Err(ProxyError::NeedCredentials { .. })));
        }
        let (result, _) = ask(&proxy(ProxyAuth::NoCleartext), Some(&user), &[BASIC]).await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains("proxy-auth-cleartext"), "{error}");
        const NTLM: &str = "HTTP/1.1 407 Auth\r\nProxy-Authenticate: NTLM\r\n\r\n";
        let (result, _) = ask(&proxy(ProxyAuth::Any), None, &[NTLM]).await;
        assert!(matches!(result, Err(ProxyError::NoMethod { .. })), "{result:?}");
        let (result, _) =
            ask(&proxy(ProxyAuth::Any), None, &["HTTP/1.1 403 Not here\r\n\r\n"]).await;
        let error = result.unwrap_err();
        assert!(!error.is_transient());
        assert!(error.to_string().contains("403 Not here"), "{error}");
        let (result, _) = ask(&proxy(ProxyAuth::Any), None, &["SSH-2.0-x\r\n\r\n"]).await;
        assert!(matches!(result, Err(ProxyError::Malformed { .. })));
    }

    /// Every set of offers, in every order, on one line or on several: without leave the password
    /// never goes out in clear text, and Digest is used wherever it is offered.
    #[test]
    fn a_password_goes_out_in_clear_text_only_with_leave() {
        const DIGEST: &str = "Digest realm=\"p\", nonce=\"n, Basic realm=x\", qop=\"auth\"";
        const OFFERS: [&str; 6] = [
            "Basic realm=\"p\"",
            "bAsIc realm=p, charset=\"UTF-8\"",
            DIGEST,
            "Negotiate",
            "NTLM",
            "Bearer realm=\"Digest realm=x\"",
        ];
        let user = credentials();
        let mut tried = 0;
        // Each sequence of up to three, as digits to the base of their number.
        let count = OFFERS.len();
        for number in 0..count.pow(3) {
            let all = [number % count, number / count % count, number / count / count];
            for length in 1..=3 {
                let offers: Vec<&str> = all[..length].iter().map(|n| OFFERS[*n]).collect();
                // Which of the gaps between offers are ends of lines.
                for cuts in 0..1_u32 << (length - 1) {
                    let mut lines = vec![offers[0].to_owned()];
                    for (gap, offer) in offers[1..].iter().enumerate() {
                        if cuts >> gap & 1 == 1 {
                            lines.push((*offer).to_owned());
                        } else {
                            lines.last_mut().unwrap().push_str(&format!(", {offer}"));
                        }
                    }
                    for auth in [ProxyAuth::NoCleartext, ProxyAuth::Any] {
                        check(&lines, offers.contains(&DIGEST), auth, &user);
                        tried += 1;
                    }
                }
            }
        }
        assert!(tried > 2000, "{tried}");

        fn check(lines: &[String], digest: bool, auth: ProxyAuth, user: &Credentials) {
            let headers: Vec<_> = lines
                .iter()
                .map(|line| httparse::Header { name: "Proxy-Authenticate", value: line.as_bytes() })
                .collect();
            let proxy = proxy(auth);
            let request = Request { host: "vpn.example.com", port: 443, credentials: Some(user) };
            let mut connect = Connect::new(&proxy, request);
            let result = connect.authorize(&headers);
            let sent = connect.authorization.as_ref().map(|a| a.expose().as_str()).unwrap_or("");
            let basic = lines.iter().any(|line| {
                line.to_lowercase().contains("basic realm=\"p\"")
                    || line.to_lowercase().contains("basic realm=p")
            });
            let expected = match (digest, basic, auth) {
                (true, ..) => "Digest ",
                (false, true, ProxyAuth::Any) => "Basic ",
                _ => "",
            };
            assert!(sent.starts_with(expected), "{lines:?} {auth:?}: {sent:?}");
            assert_eq!(sent.is_empty(), expected.is_empty(), "{lines:?} {auth:?}: {sent:?}");
            assert_eq!(result.is_ok(), !sent.is_empty(), "{lines:?} {auth:?}");
        }
    }
}
