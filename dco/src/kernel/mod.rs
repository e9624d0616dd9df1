//! The kernel implementations over generic netlink.
