//! What stays of a message when it has been read: a connection receives into a buffer of its own,
//! where bytes lie until others take their place.

use zbus::Connection;

use super::{INTERFACE, OBJECT, in_time};

/// Several times the buffer of a connection.
const LENGTH: usize = 16 * 1024;

/// Has a message without a meaning take the place of one that brought secrets. It is to this process
/// itself, by way of the bus. A private connection brings none, and has no bus.
pub(super) async fn overwrite(connection: &Connection) {
    let Some(own) = connection.unique_name() else { return };
    let filling = " ".repeat(LENGTH);
    let sent = connection.emit_signal(Some(own), OBJECT, INTERFACE, "Overwrite", &filling);
    if let Err(error) = in_time(sent).await {
        tracing::debug!("the last message stays in memory: {error}");
    }
}
