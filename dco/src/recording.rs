//! A scripted fake that records every call.
