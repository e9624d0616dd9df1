//! What proves who we are: the user's own credentials, or a token the server gave for them. The one
//! owner of both; a key exchange is lent what it sends.

use crate::secret::{Credentials, Secret};

pub(super) struct Login {
    own: Option<Credentials>,
    token: Option<Credentials>,
    /// The password cannot be sent for another connection.
    one_time: bool,
    /// The user's own have been sent.
    sent: bool,
    /// `auth-nocache`
    forget: bool,
    /// What the present connection, or the attempt at one, has sent last is the token.
    token_sent: bool,
}

impl Login {
    /// `one_time`: see [`super::SessionConfig::one_time_password`]. `forget`: `auth-nocache`.
    pub(super) const fn new(own: Credentials, one_time: bool, forget: bool) -> Self {
        Self { own: Some(own), token: None, one_time, sent: false, forget, token_sent: false }
    }

    /// A new connection begins. False: the user must be asked first.
    pub(super) fn begin(&mut self) -> bool {
        self.token_sent = false;
        self.next().is_some()
    }

    /// What the next key is negotiated with, of this connection or a new one; `None`: the user must be
    /// asked. A password that is good for one login is not sent for a second key either.
    pub(super) fn next(&self) -> Option<&Credentials> {
        let own = || self.own.as_ref().filter(|_| self.can_repeat() || !self.sent);
        self.token.as_ref().or_else(own)
    }

    /// A server that refuses now refuses the token: it is what the present connection has sent last,
    /// for whichever of its keys.
    pub(super) const fn token_sent(&self) -> bool {
        self.token_sent
    }

    pub(super) const fn can_repeat(&self) -> bool {
        self.own.is_some() && !self.one_time
    }

    /// The user has given them again.
    pub(super) fn renew(&mut self, own: Credentials, one_time: bool) {
        self.own = Some(own);
        self.one_time = one_time;
        self.sent = false;
    }

    /// A key exchange has sent what it was lent.
    pub(super) fn sent(&mut self) {
        self.token_sent = self.token.is_some();
        self.sent |= self.token.is_none();
        if self.forget {
            self.forget_own();
        }
    }

    /// `auth-nocache`, pushed: from now on.
    pub(super) fn forget_once_sent(&mut self) {
        self.forget = true;
        self.forget_own();
    }

    /// A session by certificate alone has nothing to forget, and nobody to ask for it again.
    fn forget_own(&mut self) {
        self.own.take_if(|own| *own != Credentials::default());
    }

    /// The server gave a token in place of the password. Without a user name of its own it is for the
    /// one of the token before, or for `username`, with which the connection began.
    pub(super) fn accept_token(
        &mut self,
        token: Secret<String>,
        own_username: Option<String>,
        username: &str,
    ) {
        let before = self.token.take().map(|before| before.username);
        let username = own_username.or(before).unwrap_or_else(|| username.to_owned());
        self.token = Some(Credentials { username, password: token });
    }

    /// The server takes the token no longer.
    pub(super) fn drop_token(&mut self) {
        self.token = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joe(password: &str) -> Credentials {
        Credentials { username: "joe".to_owned(), password: password.into() }
    }

    fn typed(forget: bool) -> Login {
        Login::new(joe("secret"), false, forget)
    }

    /// User name and password.
    fn shown(credentials: Option<&Credentials>) -> Option<(&str, &str)> {
        credentials.map(|c| (c.username.as_str(), c.password.expose().as_str()))
    }

    #[test]
    fn typed_credentials_are_forgotten_once_sent() {
        let mut kept = typed(false);
        kept.sent();
        assert!(kept.next().is_some() && kept.can_repeat());
        let mut forgotten = typed(true);
        assert!(forgotten.next().is_some());
        forgotten.sent();
        assert!(forgotten.next().is_none() && !forgotten.can_repeat());
        kept.forget_once_sent();
        assert!(kept.next().is_none(), "as the server wants it");
    }

    #[test]
    fn what_was_typed_again_is_forgotten_again() {
        let mut login = typed(true);
        login.sent();
        login.renew(joe("again"), false);
        assert_eq!(shown(login.next()), Some(("joe", "again")));
        login.sent();
        assert_eq!(shown(login.next()), None);
    }

    #[test]
    fn credentials_given_again_are_good_for_a_new_connection() {
        let mut login = typed(true);
        login.sent();
        login.renew(joe("again"), true);
        assert_eq!(login.next(), Some(&joe("again")));
        login.sent();
        assert_eq!(login.next(), None);
    }

    #[test]
    fn a_one_time_password_is_sent_once() {
        let mut login = Login::new(joe("123456"), true, false);
        assert_eq!(shown(login.next()), Some(("joe", "123456")));
        login.sent();
        assert_eq!(login.next(), None);
        login.renew(joe("654321"), true);
        assert_eq!(shown(login.next()), Some(("joe", "654321")));
    }

    #[test]
    fn a_certificate_alone_connects_again_with_auth_nocache() {
        let mut login = Login::new(Credentials::default(), false, true);
        login.sent();
        login.sent();
        assert_eq!(login.next(), Some(&Credentials::default()));
    }

    #[test]
    fn a_token_outlives_the_password() {
        let mut login = typed(true);
        login.sent();
        login.accept_token("SESS_ID_1".into(), None, "joe");
        login.sent();
        assert_eq!(shown(login.next()), Some(("joe", "SESS_ID_1")));
        login.accept_token("SESS_ID_2".into(), Some("cr1".to_owned()), "joe");
        assert_eq!(shown(login.next()), Some(("cr1", "SESS_ID_2")));
        login.accept_token("SESS_ID_3".into(), None, "joe");
        assert_eq!(shown(login.next()), Some(("cr1", "SESS_ID_3")));
        login.drop_token();
        assert_eq!(login.next(), None);
    }

    #[test]
    fn a_token_that_is_gone_gives_way_to_the_password() {
        let mut login = typed(false);
        assert!(login.begin());
        login.sent();
        login.accept_token("SESS_ID_1".into(), None, "joe");
        assert!(!login.token_sent(), "the server has been sent the password");
        assert!(login.begin() && !login.token_sent());
        login.sent();
        assert!(login.token_sent());
        login.drop_token();
        assert!(login.begin() && !login.token_sent());
        assert_eq!(login.next(), Some(&joe("secret")));
    }

    /// The connection began with the password; a later key sends the token.
    #[test]
    fn what_a_later_key_sends_is_what_is_refused() {
        let mut login = typed(true);
        assert!(login.begin());
        login.sent();
        login.accept_token("SESS_ID_1".into(), None, "joe");
        login.sent();
        assert!(login.token_sent() && !login.can_repeat());
        login.drop_token();
        login.renew(joe("again"), false);
        login.sent();
        assert!(!login.token_sent());
    }
}
