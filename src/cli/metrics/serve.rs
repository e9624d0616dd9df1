//! Metrics over HTTP: one answer for each connection, and nothing else of the protocol.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::text::{Format, text};
use super::{MetricsArgs, Refusal, failed};

/// Connections at a time.
const CONNECTIONS: usize = 8;
/// For all of one, and as long as the tunnels take at most.
const LIMIT: Duration = Duration::from_secs(20);
/// Longest request, in bytes.
const LONGEST: usize = 8192;
const HEADERS: usize = 64;

/// Where to listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address(SocketAddr);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.parse().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        port.or_else(|_| text.parse())
            .map(Self)
            .map_err(|_| "a port is expected, or ADDRESS:PORT ([ADDRESS]:PORT for IPv6)".to_owned())
    }
}

/// Answers until the process is ended.
pub(super) async fn serve(address: &Address, args: &MetricsArgs) -> Result<(), Refusal> {
    let named = |error| failed(format!("--listen {}: {error}", address.0));
    let listener = TcpListener::bind(address.0).await.map_err(named)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // It is closed with the listener only.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let args = args.clone();
        tokio::spawn(async move {
            // Who does not ask, or read, in time goes without.
            let _ = tokio::time::timeout(LIMIT, answer(stream, &args)).await;
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, args: &MetricsArgs) -> std::io::Result<()> {
    let answer = match read(&mut stream).await? {
        Request::Metrics(format) => match metrics(args, format).await {
            Ok(text) => response("200 OK", format.media_type(), &text),
            Err(why) => response("503 Service Unavailable", "text/plain", &why),
        },
        Request::Elsewhere => response("404 Not Found", "text/plain", "metrics are at /metrics\n"),
        Request::Other => response("400 Bad Request", "text/plain", "GET /metrics is expected\n"),
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

async fn metrics(args: &MetricsArgs, format: Format) -> Result<String, String> {
    let tunnels = args.gather().await.map_err(|(why, _)| format!("{why}\n"))?;
    text(tunnels, format).map_err(|error| error.to_string())
}

fn response(status: &str, media_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

enum Request {
    Metrics(Format),
    Elsewhere,
    Other,
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Request> {
    let mut buffer = Vec::with_capacity(LONGEST);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(Request::Other);
        }
        match parse(&buffer) {
            Some(request) => return Ok(request),
            None if buffer.len() >= LONGEST => return Ok(Request::Other),
            None => {}
        }
    }
}

/// `None`: there is more to come.
fn parse(bytes: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return Some(Request::Other),
    }
    if request.method != Some("GET") {
        return Some(Request::Other);
    }
    let path = request.path.unwrap_or_default();
    if path.split('?').next() != Some("/metrics") {
        return Some(Request::Elsewhere);
    }
    let wanted = request.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("accept")
            && String::from_utf8_lossy(header.value).contains("application/openmetrics-text")
    });
    Some(Request::Metrics(if wanted { Format::Openmetrics } else { Format::Prometheus }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_this_host() {
        let address = |text: &str| text.parse::<Address>().map(|address| address.0.to_string());
        assert_eq!(address("9100").unwrap(), "127.0.0.1:9100");
        assert_eq!(address("[::]:9100").unwrap(), "[::]:9100");
        assert!(address("somewhere").unwrap_err().contains("ADDRESS:PORT"));
    }

    #[test]
    fn who_asks_gets_the_format_they_read() {
        let format = |text: &str| match parse(text.as_bytes()) {
            Some(Request::Metrics(format)) => Some(format),
            _ => None,
        };
        let open = "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0,*/*\r\n\r\n";
        assert_eq!(format(open), Some(Format::Openmetrics));
        assert_eq!(format("GET /metrics?x HTTP/1.1\r\n\r\n"), Some(Format::Prometheus));
        assert_eq!(format("POST /metrics HTTP/1.1\r\n\r\n"), None);
        assert!(matches!(parse(b"GET / HTTP/1.1\r\n\r\n"), Some(Request::Elsewhere)));
        assert!(parse(b"GET /metrics HTTP/1.1\r\n").is_none());
        assert!(matches!(parse(b"\0\0\0\0"), Some(Request::Other)));
    }
}
