//! Events as programs read them: a JSON object each, with the time, and names beside numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::peer::News;
use crate::backend::{AttentionGroup, StatusMinor};
use crate::dbus::ConnectionReport;
use crate::logging::Category;
use crate::text::printable_json;

/// What the front end itself tells.
#[derive(Debug, Serialize)]
#[serde(tag = "signal")]
pub(super) enum Own<'a> {
    /// Follows the status that says so.
    Connected { connection: &'a ConnectionReport },
    /// The last one. `None`: it has ended as it was asked to.
    Ended { reason: Option<&'a str>, exit_status: u8 },
}

/// News, with names for its numbers.
#[derive(Serialize)]
struct Named<'a> {
    #[serde(flatten)]
    news: &'a News,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
}

/// Of the backend's news; `None` for what is nobody else's business.
pub(in crate::cli) fn of_news(news: &News) -> Option<String> {
    let name = match news {
        News::RegistrationRequest { .. } => return None,
        News::Status { minor, .. } => StatusMinor::named(*minor),
        News::Attention { kind, group, .. } => AttentionGroup::named((*kind, *group)),
        News::Log { level, .. } => Category::named(*level),
    };
    Some(line(&Named { news, name }))
}

/// One object, without the end of the line.
pub(super) fn line(event: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Line<'a, T> {
        #[serde(flatten)]
        event: &'a T,
        time: f64,
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds have 41 bits")]
    let time = now.as_millis() as f64 / 1000.0;
    // Numbers, texts and lists of them: nothing that cannot be written.
    printable_json(&serde_json::to_string(&Line { event, time }).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_names_and_every_event_its_time() {
        let value = |line: String| serde_json::from_str::<serde_json::Value>(&line).unwrap();
        let status = News::Status { major: 2, minor: 11, message: "no".to_owned() };
        let status = value(of_news(&status).unwrap());
        assert_eq!(status["name"], "CONN_AUTH_FAILED");
        assert!(status["time"].as_f64() > Some(1_700_000_000.0), "{status}");
        let question = News::Attention { kind: 1, group: 4, message: String::new() };
        assert_eq!(value(of_news(&question).unwrap())["name"], "CHALLENGE_STATIC");
        let log = News::Log { group: 7, level: 5, message: String::new() };
        assert_eq!(value(of_news(&log).unwrap())["name"], "warning");
        let unknown = News::Status { major: 2, minor: 99, message: String::new() };
        assert!(value(of_news(&unknown).unwrap()).get("name").is_none());
        assert!(of_news(&News::RegistrationRequest { token: String::new() }).is_none());
        let ended = value(line(&Own::Ended { reason: None, exit_status: 0 }));
        assert_eq!((&ended["signal"], &ended["exit_status"]), (&"Ended".into(), &0.into()));
        assert!(ended["reason"].is_null());
    }
}
