//! The simulated network: TCP as its users see it.
//!
//! A connection is two pipes, one per direction. What is written arrives in order and complete or not at all, in other
//! pieces than it was written in, each after a delay of its own; a pipe holds a bounded number of bytes and then makes
//! its writer wait. Nobody listening: connection refused. A node that crashes: its peers see a reset, at once-ish after
//! a kill, after seconds after a power cut (nobody is left to send one; here the restarted host is); what was on its
//! way may still arrive before. A blocked direction holds everything back until it is unblocked, as TCP's
//! retransmission does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::disk::Crash;
use super::locked;
use super::node::SimRuntime;
use super::rng::{Rng, mix_bytes};
use super::world::{NodeId, node_address};

/// Connections that wait to be accepted at most; more are refused.
const BACKLOG: usize = 1024;
/// The first port that is given out for port 0 and for a connecting side.
const FIRST_FREE_PORT: u16 = 32_768;

/// How long bytes take.
#[derive(Clone, Copy, Debug)]
pub struct NetworkDelays {
    /// A connection's usual delay in milliseconds, at most; each direction of each connection draws its own.
    pub usual_ms: u64,
    /// The longest exceptional delay in milliseconds.
    pub slow_ms: u64,
    /// How probable an exceptional delay is, per piece.
    pub slow_chance: f64,
    /// Bytes that one direction of a connection holds before its writer has to wait: drawn up to this, at least 256.
    pub buffer_bytes: u64,
}

impl Default for NetworkDelays {
    fn default() -> NetworkDelays {
        NetworkDelays { usual_ms: 2, slow_ms: 100, slow_chance: 0.01, buffer_bytes: 64 * 1024 }
    }
}

/// All listeners and connections.
pub(super) struct Network {
    rng: Rng,
    delays: NetworkDelays,
    listeners: BTreeMap<SocketAddr, Arc<ListenerState>>,
    connections: BTreeMap<u64, Weak<Connection>>,
    blocked: BTreeSet<(NodeId, NodeId)>,
    unblocked: Arc<Notify>,
    next_connection: u64,
    next_port: BTreeMap<NodeId, u16>,
}

impl Network {
    pub(super) fn new(rng: &Rng) -> Network {
        Network {
            rng: rng.fork("network", 0),
            delays: NetworkDelays::default(),
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            blocked: BTreeSet::new(),
            unblocked: Arc::new(Notify::new()),
            next_connection: 0,
            next_port: BTreeMap::new(),
        }
    }

    pub(super) fn set_delays(&mut self, delays: NetworkDelays) {
        self.delays = delays;
    }

    pub(super) fn block(&mut self, from: NodeId, to: NodeId) {
        self.blocked.insert((from, to));
    }

    pub(super) fn unblock(&mut self, from: NodeId, to: NodeId) {
        self.blocked.remove(&(from, to));
        self.unblocked.notify_waiters();
        for connection in self.connections.values().filter_map(Weak::upgrade) {
            connection.wake_all();
        }
    }

    /// Breaks all connections between two nodes. Gives how many there were.
    pub(super) fn break_between(&mut self, one: NodeId, other: NodeId, within_ms: u64) -> u64 {
        let (now, mut broken) = (now(), 0);
        for connection in self.connections.values().filter_map(Weak::upgrade) {
            let nodes = connection.ends.map(|end| end.node);
            if nodes == [one, other] || nodes == [other, one] {
                for side in [0, 1] {
                    let delay = self.rng.between(0, within_ms);
                    connection.reset(side, now + Duration::from_millis(delay));
                }
                broken += 1;
            }
        }
        broken
    }

    fn is_blocked(&self, from: NodeId, to: NodeId) -> bool {
        !self.blocked.is_empty() && self.blocked.contains(&(from, to))
    }

    /// Ends all that a crashed node had open, and gives back its listeners.
    pub(super) fn reset_node(&mut self, node: NodeId, kind: Crash) -> Vec<Arc<ListenerState>> {
        let gone: Vec<SocketAddr> =
            self.listeners.values().filter(|listener| listener.node == node).map(|state| state.address).collect();
        let gone = gone.into_iter().filter_map(|address| self.listeners.remove(&address)).collect();
        let now = now();
        for connection in self.connections.values().filter_map(Weak::upgrade) {
            for side in [0, 1] {
                if connection.ends[side].node == node {
                    let delay = match kind {
                        Crash::Kill => self.rng.between(0, 20),
                        Crash::PowerCut => self.rng.between(0, 5_000),
                    };
                    connection.reset(1 - side, now + Duration::from_millis(delay));
                }
            }
        }
        gone
    }

    fn free_port(&mut self, node: NodeId) -> u16 {
        let next = self.next_port.entry(node).or_insert(FIRST_FREE_PORT);
        let port = *next;
        *next = next.checked_add(1).unwrap_or(FIRST_FREE_PORT);
        port
    }
}

fn now() -> Instant {
    Instant::now()
}

pub(super) struct ListenerState {
    node: NodeId,
    address: SocketAddr,
    waiting: Mutex<VecDeque<SimStream>>,
    arrived: Notify,
}

/// A simulated listener.
pub(crate) struct SimListener {
    node: SimRuntime,
    state: Arc<ListenerState>,
}

pub(super) fn listen(node: &SimRuntime, mut address: SocketAddr) -> io::Result<SimListener> {
    if !node.is_alive() {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let mut network = locked(&node.world.0.network);
    if address.port() == 0 {
        address.set_port(network.free_port(node.node()));
    }
    if network.listeners.contains_key(&address) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let state =
        Arc::new(ListenerState { node: node.node(), address, waiting: Mutex::default(), arrived: Notify::new() });
    network.listeners.insert(address, Arc::clone(&state));
    Ok(SimListener { node: node.clone(), state })
}

impl SimListener {
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.state.address
    }

    pub(crate) async fn accept(&self) -> io::Result<(SimStream, SocketAddr)> {
        loop {
            if !self.node.is_alive() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if let Some(stream) = locked(&self.state.waiting).pop_front() {
                let peer = stream.peer_addr();
                return Ok((stream, peer));
            }
            self.state.arrived.notified().await;
        }
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut network = locked(&self.node.world.0.network);
        if network.listeners.get(&self.state.address).is_some_and(|state| Arc::ptr_eq(state, &self.state)) {
            network.listeners.remove(&self.state.address);
        }
        drop(network);
        let waiting = std::mem::take(&mut *locked(&self.state.waiting));
        drop(waiting);
    }
}

pub(super) async fn connect(node: &SimRuntime, address: SocketAddr) -> io::Result<SimStream> {
    let delay = {
        let mut network = locked(&node.world.0.network);
        let usual_ms = network.delays.usual_ms;
        network.rng.between(0, usual_ms)
    };
    tokio::time::sleep(Duration::from_millis(delay)).await;
    loop {
        let unblocked = {
            let network = locked(&node.world.0.network);
            if !node.is_alive() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let Some(listener) = network.listeners.get(&address).cloned() else {
                drop(network);
                node.world.0.record(node.node(), "refused", &[], format_args!("{address}"));
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (from, to) = (node.node(), listener.node);
            if !network.is_blocked(from, to) && !network.is_blocked(to, from) {
                return establish(node, network, &listener);
            }
            Arc::clone(&network.unblocked)
        };
        // Nothing runs between the look above and this: there is one thread.
        unblocked.notified().await;
    }
}

fn establish(
    node: &SimRuntime,
    mut network: std::sync::MutexGuard<'_, Network>,
    listener: &ListenerState,
) -> io::Result<SimStream> {
    let mut waiting = locked(&listener.waiting);
    if waiting.len() >= BACKLOG {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let id = network.next_connection;
    network.next_connection += 1;
    let port = network.free_port(node.node());
    let client = SocketAddr::new(node_address(node.node()), port);
    let ends = [End { node: node.node(), address: client }, End { node: listener.node, address: listener.address }];
    let rng = network.rng.fork("connection", id);
    let pipes = [0, 1].map(|side| Mutex::new(Pipe::new(rng.fork("pipe", side), network.delays)));
    let connection = Arc::new(Connection { id, ends, pipes, resets: Mutex::default() });
    network.connections.insert(id, Arc::downgrade(&connection));
    drop(network);

    node.world.0.record(node.node(), "connect", &[id], format_args!("#{id} to {}", listener.address));
    // The accepting side's halves belong to the incarnation that accepts, which is the one that listens now.
    let acceptor = SimRuntime::new(node.world.clone(), node.world.incarnation_of(listener.node));
    waiting.push_back(SimStream::new(acceptor, Arc::clone(&connection), 1));
    listener.arrived.notify_one();
    Ok(SimStream::new(node.clone(), connection, 0))
}

#[derive(Clone, Copy)]
struct End {
    node: NodeId,
    address: SocketAddr,
}

struct Connection {
    id: u64,
    /// The connecting side and the accepting side.
    ends: [End; 2],
    /// What each side sends.
    pipes: [Mutex<Pipe>; 2],
    /// When each side learns that the other is gone.
    resets: Mutex<[Option<Instant>; 2]>,
}

impl Connection {
    fn reset(&self, side: usize, at: Instant) {
        locked(&self.resets)[side].get_or_insert(at);
        self.wake_all();
    }

    fn reset_at(&self, side: usize) -> Option<Instant> {
        locked(&self.resets)[side]
    }

    fn is_reset(&self, side: usize) -> bool {
        self.reset_at(side).is_some_and(|at| at <= now())
    }

    fn wake_all(&self) {
        for pipe in &self.pipes {
            let mut pipe = locked(pipe);
            let wakers = [pipe.reader.take(), pipe.writer.take()];
            drop(pipe);
            wakers.into_iter().flatten().for_each(Waker::wake);
        }
    }
}

/// One direction of a connection.
struct Pipe {
    rng: Rng,
    delays: NetworkDelays,
    usual_ms: u64,
    capacity: usize,
    pieces: VecDeque<Piece>,
    held: usize,
    last_arrival: Instant,
    /// When the end of the stream arrives.
    end: Option<Instant>,
    reader_gone: bool,
    writer_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Piece {
    bytes: Vec<u8>,
    read: usize,
    arrives: Instant,
}

impl Pipe {
    fn new(mut rng: Rng, delays: NetworkDelays) -> Pipe {
        let usual_ms = rng.between(0, delays.usual_ms);
        let capacity = rng.between(256, delays.buffer_bytes.max(256)) as usize;
        Pipe {
            rng,
            delays,
            usual_ms,
            capacity,
            pieces: VecDeque::new(),
            held: 0,
            last_arrival: now(),
            end: None,
            reader_gone: false,
            writer_gone: false,
            reader: None,
            writer: None,
        }
    }

    /// When something sent now arrives: never before what was sent earlier.
    fn next_arrival(&mut self) -> Instant {
        let milliseconds = if self.rng.chance(self.delays.slow_chance) {
            self.rng.between(self.usual_ms, self.delays.slow_ms.max(self.usual_ms))
        } else {
            self.usual_ms
        };
        self.last_arrival = self.last_arrival.max(now() + Duration::from_millis(milliseconds));
        self.last_arrival
    }

    /// Takes as many bytes as there is room for, in one or two pieces.
    fn send(&mut self, bytes: Vec<u8>) {
        self.held += bytes.len();
        let cut = if self.rng.chance(0.2) { self.rng.index(bytes.len()) } else { 0 };
        let (first, second) = bytes.split_at(cut);
        for piece in [first, second] {
            if !piece.is_empty() {
                let arrives = self.next_arrival();
                self.pieces.push_back(Piece { bytes: piece.to_vec(), read: 0, arrives });
            }
        }
    }

    fn finish(&mut self) {
        if self.end.is_none() {
            self.end = Some(self.next_arrival());
        }
    }
}

/// One side of a simulated connection.
pub(crate) struct SimStream {
    read: SimReadHalf,
    write: SimWriteHalf,
}

impl SimStream {
    fn new(node: SimRuntime, connection: Arc<Connection>, side: usize) -> SimStream {
        let half = Half { node, connection, side };
        SimStream { read: SimReadHalf { half: half.clone(), timer: None }, write: SimWriteHalf { half } }
    }

    pub(crate) fn into_split(self) -> (SimReadHalf, SimWriteHalf) {
        (self.read, self.write)
    }

    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.read.half.connection.ends[1 - self.read.half.side].address
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.read.half.connection.ends[self.read.half.side].address
    }
}

#[derive(Clone)]
struct Half {
    node: SimRuntime,
    connection: Arc<Connection>,
    side: usize,
}

impl Half {
    fn outgoing(&self) -> &Mutex<Pipe> {
        &self.connection.pipes[self.side]
    }

    fn incoming(&self) -> &Mutex<Pipe> {
        &self.connection.pipes[1 - self.side]
    }

    /// Forgets a connection of which both sides have dropped everything.
    fn forget(&self) {
        if self.connection.pipes.iter().all(|pipe| {
            let pipe = locked(pipe);
            pipe.reader_gone && pipe.writer_gone
        }) {
            locked(&self.node.world.0.network).connections.remove(&self.connection.id);
        }
    }
}

/// The receiving half of one side.
pub(crate) struct SimReadHalf {
    half: Half,
    timer: Option<Pin<Box<Sleep>>>,
}

/// The sending half of one side.
pub(crate) struct SimWriteHalf {
    half: Half,
}

impl SimReadHalf {
    /// Makes the task run again at `deadline`.
    fn wake_at(&mut self, deadline: Instant, context: &mut Context<'_>) {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        timer.as_mut().reset(deadline);
        if timer.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }
}

impl AsyncRead for SimReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Half { node, connection, side } = this.half.clone();
        if !node.is_alive() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let (me, peer) = (connection.ends[side].node, connection.ends[1 - side].node);
        let blocked = locked(&node.world.0.network).is_blocked(peer, me);
        let reset = connection.reset_at(side);
        let now = now();
        let mut pipe = locked(&connection.pipes[1 - side]);
        pipe.reader = Some(context.waker().clone());
        if blocked {
            return Poll::Pending;
        }
        if reset.is_some_and(|at| at <= now) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let state = &mut *pipe;
        let next = match state.pieces.front_mut() {
            Some(piece) if piece.arrives <= now => {
                let mut count = (piece.bytes.len() - piece.read).min(buffer.remaining());
                if state.rng.chance(0.1) {
                    count = 1 + state.rng.index(count);
                }
                buffer.put_slice(&piece.bytes[piece.read..piece.read + count]);
                piece.read += count;
                if piece.read == piece.bytes.len() {
                    state.pieces.pop_front();
                }
                state.held -= count;
                if let Some(writer) = state.writer.take() {
                    writer.wake();
                }
                return Poll::Ready(Ok(()));
            }
            Some(piece) => Some(piece.arrives),
            None if state.end.is_some_and(|at| at <= now) => return Poll::Ready(Ok(())),
            None => state.end,
        };
        drop(pipe);
        if let Some(deadline) = [next, reset].into_iter().flatten().min() {
            this.wake_at(deadline, context);
        }
        Poll::Pending
    }
}

impl SimWriteHalf {
    fn send(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Half { node, connection, side } = &self.half;
        if !node.is_alive() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if connection.is_reset(*side) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut pipe = locked(self.half.outgoing());
        if pipe.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        // What nobody reads any more takes no room.
        let room = if pipe.reader_gone { usize::MAX } else { pipe.capacity - pipe.held.min(pipe.capacity) };
        if room == 0 {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut bytes = Vec::new();
        for slice in slices {
            let count = slice.len().min(room - bytes.len());
            bytes.extend_from_slice(&slice[..count]);
        }
        let count = bytes.len();
        let hash = mix_bytes(0, &bytes);
        let peer_closed = pipe.reader_gone && locked(self.half.incoming()).writer_gone;
        if pipe.reader_gone {
            // Nobody reads this any more; a closed socket answers with a reset.
            let at = pipe.next_arrival();
            drop(pipe);
            if peer_closed {
                connection.reset(*side, at);
            }
        } else {
            pipe.send(bytes);
            let reader = pipe.reader.take();
            drop(pipe);
            if let Some(reader) = reader {
                reader.wake();
            }
        }
        let id = connection.id;
        node.world.0.record(node.node(), "send", &[id, count as u64, hash], format_args!("#{id} {count} bytes"));
        Poll::Ready(Ok(count))
    }

    fn finish(&self) {
        let mut pipe = locked(self.half.outgoing());
        pipe.finish();
        let reader = pipe.reader.take();
        drop(pipe);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl AsyncWrite for SimWriteHalf {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.send(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.send(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimReadHalf {
    fn drop(&mut self) {
        let mut pipe = locked(self.half.incoming());
        pipe.reader_gone = true;
        let writer = pipe.writer.take();
        drop(pipe);
        if let Some(writer) = writer {
            writer.wake();
        }
        self.half.forget();
    }
}

impl Drop for SimWriteHalf {
    fn drop(&mut self) {
        // A dead node sends no more: its peers get the reset.
        if self.half.node.is_alive() {
            self.finish();
        }
        locked(self.half.outgoing()).writer_gone = true;
        self.half.forget();
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(context, buffer)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(context)
    }
}
