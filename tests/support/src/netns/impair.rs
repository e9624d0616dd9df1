//! Links that lose, delay, reorder and double packets.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::NetNs;
use super::netlink::{Tun, connect};

/// What a link does to packets, in each direction. By default nothing.
#[derive(Clone, Copy, Default, Debug)]
pub struct Impairment {
    /// Share of packets lost, 0.0..=1.0.
    pub loss: f64,
    /// Time every packet takes, one way.
    pub delay: Duration,
    /// Share of packets that take no time and so overtake others, 0.0..=1.0.
    pub reorder: f64,
    /// Share of packets delivered twice, 0.0..=1.0.
    pub duplicate: f64,
    /// Decides which packets are hit, where this program does it (not with `netem`).
    pub seed: u64,
}

/// Keeps an impaired link working until dropped.
#[derive(Debug)]
pub struct ImpairedLink {
    shuttle: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl ImpairedLink {
    /// Whether the kernel does it.
    pub fn is_netem(&self) -> bool {
        self.shuttle.is_none()
    }
}

impl Drop for ImpairedLink {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.shuttle.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

/// Like [`connect`], with loss and delay: `netem` where the kernel has it, otherwise two TAP
/// devices and a thread that carries packets between them. Both look like Ethernet, MTU 1500.
pub fn connect_impaired(
    a: &NetNs,
    name_a: &str,
    b: &NetNs,
    name_b: &str,
    impairment: Impairment,
) -> ImpairedLink {
    connect(a, name_a, b, name_b);
    if netem(a, name_a, impairment) {
        assert!(netem(b, name_b, impairment), "netem works on one end only");
        return ImpairedLink { shuttle: None };
    }
    a.delete_link(name_a);
    let (tap_a, tap_b) = (a.add_tap(name_a), b.add_tap(name_b));
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("tokio runtime")
            .block_on(async {
                tokio::select! {
                    () = carry(tap_a, tap_b, impairment) => {}
                    _ = stopped => {}
                }
            });
    });
    ImpairedLink { shuttle: Some((stop, thread)) }
}

/// Puts netem on a link's way out. False: the kernel has no netem.
fn netem(ns: &NetNs, link: &str, impairment: Impairment) -> bool {
    // struct tc_netem_qopt, TCA_NETEM_REORDER and TCA_NETEM_LATENCY64 of linux/pkt_sched.h.
    const TCA_OPTIONS: u16 = 2;
    const TCA_NETEM_REORDER: u16 = 3;
    const TCA_NETEM_LATENCY64: u16 = 10;
    const LIMIT: u32 = 100_000;
    let share = |share: f64| (share * f64::from(u32::MAX)) as u32;
    let (loss, duplicate) = (share(impairment.loss), share(impairment.duplicate));
    // Candidates for overtaking: every packet.
    let gap = u32::from(impairment.reorder > 0.0);
    let mut options = Vec::new();
    for field in [0, LIMIT, loss, gap, duplicate, 0] {
        options.extend(field.to_ne_bytes());
    }
    let nanos = impairment.delay.as_nanos() as i64;
    let latency = DefaultNla::new(TCA_NETEM_LATENCY64, nanos.to_ne_bytes().to_vec());
    let reorder = [share(impairment.reorder), 0].map(u32::to_ne_bytes).concat();
    let reorder = DefaultNla::new(TCA_NETEM_REORDER, reorder);
    let wanted = [Some(latency), (gap > 0).then_some(reorder)];
    for attribute in wanted.into_iter().flatten() {
        let start = options.len();
        options.resize(start + attribute.buffer_len(), 0);
        attribute.emit(&mut options[start..]);
    }

    let mut message = TcMessage::with_index(ns.link_index(link).expect("link exists") as i32);
    message.header.parent = TcHandle::ROOT;
    message.attributes = vec![
        TcAttribute::Kind("netem".to_owned()),
        TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)),
    ];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    ns.netlink(|mut handle| async move {
        let mut answers = handle.request(request).expect("netlink request");
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && let Some(code) = error.code
            {
                assert_eq!(code.get(), -libc::ENOENT, "netem on {link}: {}", error.to_io());
                return false;
            }
        }
        true
    })
}

async fn carry(a: Tun, b: Tun, impairment: Impairment) {
    let (a, b) = (asynchronous(a), asynchronous(b));
    let seed = impairment.seed;
    tokio::join!(
        carry_one_way(a.clone(), b.clone(), impairment, StdRng::seed_from_u64(seed)),
        carry_one_way(b, a, impairment, StdRng::seed_from_u64(!seed)),
    );
}

fn asynchronous(tap: Tun) -> Arc<AsyncFd<Tun>> {
    fcntl(tap.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("O_NONBLOCK");
    // SAFETY: `Tun` owns its one descriptor and gives the same one as long as it lives.
    let registered = unsafe { AsyncFd::register(tap) };
    Arc::new(registered.expect("register the TAP device"))
}

async fn carry_one_way(
    from: Arc<AsyncFd<Tun>>,
    to: Arc<AsyncFd<Tun>>,
    impairment: Impairment,
    mut random: StdRng,
) {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(100_000);
    let receive = async {
        let mut buffer = vec![0; 65_536];
        loop {
            let mut ready = from.readable().await.expect("TAP device readable");
            match ready.try_io(|tap| tap.get_ref().recv(&mut buffer)) {
                Ok(Ok(length)) => {
                    if random.random_bool(impairment.loss) {
                        continue;
                    }
                    let packet = buffer[..length].to_vec();
                    if random.random_bool(impairment.reorder) {
                        // A link that is down drops packets.
                        let _ = to.get_ref().send(&packet);
                        continue;
                    }
                    // A full queue drops, like any link's.
                    if random.random_bool(impairment.duplicate) {
                        let _ = queue.try_send((Instant::now() + impairment.delay, packet.clone()));
                    }
                    let _ = queue.try_send((Instant::now() + impairment.delay, packet));
                }
                // The device is down or gone: its namespace was taken away.
                Ok(Err(_)) => break,
                Err(_would_block) => {}
            }
        }
    };
    let send = async {
        while let Some((due, packet)) = queued.recv().await {
            sleep_until(due).await;
            let _ = to.get_ref().send(&packet);
        }
    };
    tokio::join!(receive, send);
}
