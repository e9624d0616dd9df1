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
    /// The present connection, or the attempt at one, began with the token.
    began_with_token: bool,
}

impl Login {
    /// `one_time`: see [`super::SessionConfig::one_time_password`]. `forget`: `auth-nocache`.
    pub(super) const fn new(own: Credentials, one_time: bool, forget: bool) -> Self {
        Self { own: Some(own), token: None, one_time, sent: false, forget, began_with_token: false }
    }

    /// A new connection begins. False: the user must be asked first.
    pub(super) fn begin(&mut self) -> bool {
        self.began_with_token = self.token.is_some();
        self.for_connection().is_some()
    }

    /// What a new connection begins with; `None`: the user must be asked.
    pub(super) fn for_connection(&self) -> Option<&Credentials> {
        let own = || self.own.as_ref().filter(|_| self.can_repeat() || !self.sent);
        self.token.as_ref().or_else(own)
    }

    /// What a later key of a connection is negotiated with; `None`: the user must be asked.
    pub(super) const fn for_renegotiation(&self) -> Option<&Credentials> {
        match &self.token {
            Some(token) => Some(token),
            None => self.own.as_ref(),
        }
    }

    /// What the present connection began with, if it has logged in, is the token.
    pub(super) const fn began_with_token(&self) -> bool {
        self.began_with_token
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
        if self.token.is_none() {
            self.sent = true;
        }
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
        assert!(kept.for_connection().is_some() && kept.can_repeat());
        let mut forgotten = typed(true);
        assert!(forgotten.for_connection().is_some());
        forgotten.sent();
        assert!(forgotten.for_connection().is_none() && !forgotten.can_repeat());
        assert!(forgotten.for_renegotiation().is_none());
        kept.forget_once_sent();
        assert!(kept.for_renegotiation().is_none(), "as the server wants it");
    }

    #[test]
    fn what_was_typed_again_is_forgotten_again() {
        let mut login = typed(true);
        login.sent();
        login.renew(joe("again"), false);
        assert_eq!(shown(login.for_renegotiation()), Some(("joe", "again")));
        login.sent();
        assert_eq!(shown(login.for_renegotiation()), None);
    }

    #[test]
    fn credentials_given_again_are_good_for_a_new_connection() {
        let mut login = typed(true);
        login.sent();
        login.renew(joe("again"), true);
        assert_eq!(login.for_connection(), Some(&joe("again")));
        login.sent();
        assert_eq!(login.for_connection(), None);
    }

    #[test]
    fn a_one_time_password_lasts_as_long_as_its_connection() {
        let mut login = Login::new(joe("123456"), true, false);
        assert_eq!(shown(login.for_connection()), Some(("joe", "123456")));
        login.sent();
        assert_eq!(login.for_connection(), None);
        assert_eq!(shown(login.for_renegotiation()), Some(("joe", "123456")));
    }

    #[test]
    fn a_certificate_alone_connects_again_with_auth_nocache() {
        let mut login = Login::new(Credentials::default(), false, true);
        login.sent();
        login.sent();
        assert_eq!(login.for_connection(), Some(&Credentials::default()));
    }

    #[test]
    fn a_token_outlives_the_password() {
        let mut login = typed(true);
        login.sent();
        login.accept_token("SESS_ID_1".into(), None, "joe");
        login.sent();
        assert_eq!(shown(login.for_connection()), Some(("joe", "SESS_ID_1")));
        login.accept_token("SESS_ID_2".into(), Some("cr1".to_owned()), "joe");
        assert_eq!(shown(login.for_renegotiation()), Some(("cr1", "SESS_ID_2")));
        login.accept_token("SESS_ID_3".into(), None, "joe");
        assert_eq!(shown(login.for_renegotiation()), Some(("cr1", "SESS_ID_3")));
        login.drop_token();
        assert_eq!(login.for_connection(), None);
    }

    #[test]
    fn a_token_that_is_gone_gives_way_to_the_password() {
        let mut login = typed(false);
        login.sent();
        login.accept_token("SESS_ID_1".into(), None, "joe");
        assert!(login.begin() && login.began_with_token());
        login.drop_token();
        assert!(login.begin() && !login.began_with_token());
        assert_eq!(login.for_connection(), Some(&joe("secret")));
    }
}
