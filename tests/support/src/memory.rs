//! The memory of another process, to look for what should not be there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

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
