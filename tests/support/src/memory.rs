//! The memory of another process, to look for what should not be there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use memchr::memmem;

/// What a process can write to: its heap, its stacks, its data.
pub struct Memory(Vec<(String, u64, Vec<u8>)>);

impl Memory {
    /// Of a running process. Needs root.
    pub fn of(process: u32) -> Self {
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        let memory = File::open(format!("/proc/{process}/mem")).unwrap();
        let regions = maps.lines().filter_map(|line| {
            let (range, rest) = line.split_once(' ').unwrap();
            if !rest.starts_with("rw") {
                return None;
            }
            let (start, end) = range.split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            let mut content = vec![0; usize::try_from(number(end) - number(start)).unwrap()];
            // A region that has gone meanwhile holds nothing any more.
            memory.read_exact_at(&mut content, number(start)).ok()?;
            let name = rest.split_whitespace().nth(4).unwrap_or("anonymous");
            Some((name.to_owned(), number(start), content))
        });
        Self(regions.collect())
    }

    /// Where `needle` is: kind of region, address in it.
    pub fn find(&self, needle: &[u8]) -> Vec<String> {
        let finder = memmem::Finder::new(needle);
        let places = self.0.iter().flat_map(|(name, start, content)| {
            finder.find_iter(content).map(move |at| format!("{name} {start:x}+{at:x}"))
        });
        places.collect()
    }
}

/// What must not be found, and how to call it.
pub type Secret = (String, Vec<u8>);

/// A text that must not be found.
pub fn text(name: &str, secret: &str) -> Secret {
    (name.to_owned(), secret.as_bytes().to_vec())
}

/// The lines of a private key's PEM text, and the secret number in its DER (`ECPrivateKey`).
pub fn key_pieces(pem: &str) -> Vec<Secret> {
    let lines = pem.lines().filter(|line| !line.starts_with("-----") && line.len() >= 24);
    let mut pieces: Vec<_> = lines.map(|line| text(&format!("PEM {line}"), line)).collect();
    assert!(pieces.len() >= 2);
    let der = pem::parse(pem).unwrap().into_contents();
    // The OCTET STRING of 32 bytes.
    let at = der.windows(2).position(|pair| pair == [4, 32]).unwrap() + 2;
    pieces.push(("number of the key".to_owned(), der[at..at + 32].to_vec()));
    pieces
}

/// Waits until `missing` names nothing any more.
pub fn wait_until(mut missing: impl FnMut() -> Vec<String>) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let missing = missing();
        if missing.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{missing:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until a process has none of the secrets any more. `known` is none, and is there.
pub fn expect_none(process: u32, known: &str, secrets: &[Secret]) {
    wait_until(|| {
        let memory = Memory::of(process);
        assert!(!memory.find(known.as_bytes()).is_empty(), "{known} is no secret");
        let found = secrets.iter().map(|(name, secret)| (name, memory.find(secret)));
        let found = found.filter(|(_, places)| !places.is_empty());
        found.map(|(name, places)| format!("{name} in {places:?}")).collect()
    });
}
