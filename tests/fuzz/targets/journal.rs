//! The undo journal, as a crash may have left it: reading it again reads the same, and a line that
//! means nothing hides none of the others.

use ovpn_client::network::parse_journal;

/// Input: a journal.
pub fn run(data: &[u8]) {
    let (open, unreadable) = parse_journal(data);
    assert_eq!((open, unreadable), parse_journal(data));
    let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    assert!(open + unreadable <= lines);
    for torn in [&b"{\"undo\":{\"id\":9,\"wh"[..], b"\xff\xfe", b"null"] {
        let behind = [data, b"\n", torn].concat();
        assert_eq!(parse_journal(&behind), (open, unreadable + 1));
        let before = [torn, b"\n", data].concat();
        assert_eq!(parse_journal(&before), (open, unreadable + 1));
    }
    // Noting a change twice is noting it once; and nothing is undone that is done.
    let change = br#"{"undo":{"id":18446744073709551615,"what":{"delete_link":{"name":"a","kind":"ovpn","index":7}}}}"#;
    let done = br#"{"done":{"id":18446744073709551615}}"#;
    let once = [data, b"\n", change].concat();
    let twice = [&once[..], b"\n", change].concat();
    assert_eq!(parse_journal(&once), parse_journal(&twice));
    let over = [&once[..], b"\n", done].concat();
    assert_eq!(parse_journal(&over).0 + 1, parse_journal(&once).0);
    assert!(parse_journal(&over).0 <= open);
}
