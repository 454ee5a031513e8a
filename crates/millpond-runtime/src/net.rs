//! Streams and listeners, over TCP or over the simulated network.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::disk::FileRange;
#[cfg(feature = "sim")]
use crate::sim::{SimListener, SimReadHalf, SimStream, SimWriteHalf};

/// Accepts connections.
pub struct Listener(ListenerKind);

enum ListenerKind {
    Tcp(TcpListener),
    #[cfg(feature = "sim")]
    Simulated(SimListener),
}

impl Listener {
    pub(crate) fn from_tcp(listener: TcpListener) -> Listener {
        Listener(ListenerKind::Tcp(listener))
    }

    #[cfg(feature = "sim")]
    pub(crate) fn from_sim(listener: SimListener) -> Listener {
        Listener(ListenerKind::Simulated(listener))
    }

    /// The next connection, with its peer's address. Safe to cancel.
    ///
    /// # Errors
    /// What the system reports, for example too many open files. The listener stays usable.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match &self.0 {
            ListenerKind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream::from_tcp(stream), peer))
            }
            #[cfg(feature = "sim")]
            ListenerKind::Simulated(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::from_sim(stream), peer))
            }
        }
    }

    /// The address that is listened on, with the port that was taken for port 0.
    ///
    /// # Errors
    /// What the system reports.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            ListenerKind::Tcp(listener) => listener.local_addr(),
            #[cfg(feature = "sim")]
            ListenerKind::Simulated(listener) => Ok(listener.local_addr()),
        }
    }
}

/// A connection. `TCP_NODELAY` is set.
pub struct Stream(StreamKind);

enum StreamKind {
    Tcp(TcpStream),
    #[cfg(feature = "sim")]
    Simulated(SimStream),
}

impl Stream {
    pub(crate) fn from_tcp(stream: TcpStream) -> Stream {
        Stream(StreamKind::Tcp(stream))
    }

    #[cfg(feature = "sim")]
    pub(crate) fn from_sim(stream: SimStream) -> Stream {
        Stream(StreamKind::Simulated(stream))
    }

    /// Splits the connection, so that two tasks can use it. Dropping the write half ends the sending direction.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self.0 {
            StreamKind::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf(ReadKind::Tcp(read)), WriteHalf(WriteKind::Tcp(write)))
            }
            #[cfg(feature = "sim")]
            StreamKind::Simulated(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf(ReadKind::Simulated(read)), WriteHalf(WriteKind::Simulated(write)))
            }
        }
    }

    /// The other side's address.
    ///
    /// # Errors
    /// What the system reports, for example that the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            StreamKind::Tcp(stream) => stream.peer_addr(),
            #[cfg(feature = "sim")]
            StreamKind::Simulated(stream) => Ok(stream.peer_addr()),
        }
    }

    /// This side's address.
    ///
    /// # Errors
    /// What the system reports.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            StreamKind::Tcp(stream) => stream.local_addr(),
            #[cfg(feature = "sim")]
            StreamKind::Simulated(stream) => Ok(stream.local_addr()),
        }
    }

    /// Writes a part of a file, as [`AsyncWrite::poll_write`] does bytes: without a copy through this process where the
    /// system can (`sendfile`). It reads the file where it is called, so what is sent should be in the page cache.
    ///
    /// # Errors
    /// What the system reports of either; `UnexpectedEof` when the file ends before the range does.
    pub fn poll_send_file(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        range: &FileRange,
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        if let (StreamKind::Tcp(tcp), Some(file)) = (&stream.0, range.file().descriptor()) {
            let send = || Ok(rustix::fs::sendfile(&*tcp, file, Some(&mut range.position()), range.len())?);
            match ready!(poll_writable(tcp, context, send)) {
                Ok(0) if !range.is_empty() => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if cannot_send(&error) => {}
                sent => return Poll::Ready(sent),
            }
        }
        let bytes = range.file().read_vec_at(range.len().min(COPIED_BYTES), range.position())?;
        Pin::new(stream).poll_write(context, &bytes)
    }

    /// Writes slices as [`AsyncWrite::poll_write_vectored`] does, and lets the system wait for what is written next
    /// before it sends a packet that is not full. Something must be written next.
    ///
    /// # Errors
    /// What the system reports.
    pub fn poll_write_more(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &self.0 {
            StreamKind::Tcp(tcp) => {
                let send = || SockRef::from(tcp).send_vectored_with_flags(slices, libc::MSG_MORE | libc::MSG_NOSIGNAL);
                poll_writable(tcp, context, send)
            }
            #[cfg(feature = "sim")]
            StreamKind::Simulated(_) => self.poll_write_vectored(context, slices),
        }
    }

    /// Turns `TCP_NODELAY` (no waiting for more bytes before a small segment is sent) on or off; it is on from the
    /// start.
    ///
    /// # Errors
    /// What the system reports.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match &self.0 {
            StreamKind::Tcp(stream) => stream.set_nodelay(nodelay),
            #[cfg(feature = "sim")]
            StreamKind::Simulated(_) => Ok(()),
        }
    }
}

/// Bytes of a file that are copied at a time where the system does not send them itself.
const COPIED_BYTES: usize = 64 << 10;

/// Whether the system or the file system does not do `sendfile`.
fn cannot_send(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| [libc::EINVAL, libc::ENOSYS, libc::EPERM, libc::EOPNOTSUPP].contains(&code))
}

/// Calls `send` when the socket takes bytes; on `Pending` the context is woken when it does.
fn poll_writable(
    stream: &TcpStream,
    context: &mut Context<'_>,
    mut send: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(context))?;
        match stream.try_io(Interest::WRITABLE, &mut send) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            sent => return Poll::Ready(sent),
        }
    }
}

/// The receiving half of a [`Stream`].
pub struct ReadHalf(ReadKind);

enum ReadKind {
    Tcp(OwnedReadHalf),
    #[cfg(feature = "sim")]
    Simulated(SimReadHalf),
}

/// The sending half of a [`Stream`].
pub struct WriteHalf(WriteKind);

enum WriteKind {
    Tcp(OwnedWriteHalf),
    #[cfg(feature = "sim")]
    Simulated(SimWriteHalf),
}

/// Calls one method on whatever is inside: TCP or simulated, each of which is `Unpin`.
macro_rules! forward {
    ($kind:ident, $this:expr, $inner:ident => $call:expr) => {
        match &mut $this.get_mut().0 {
            $kind::Tcp(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
            #[cfg(feature = "sim")]
            $kind::Simulated(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
        }
    };
}

macro_rules! impl_read {
    ($type:ident, $kind:ident) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                forward!($kind, self, inner => inner.poll_read(context, buffer))
            }
        }
    };
}

macro_rules! impl_write {
    ($type:ident, $kind:ident) => {
        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                forward!($kind, self, inner => inner.poll_write(context, bytes))
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                slices: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                forward!($kind, self, inner => inner.poll_write_vectored(context, slices))
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                forward!($kind, self, inner => inner.poll_flush(context))
            }

            fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                forward!($kind, self, inner => inner.poll_shutdown(context))
            }
        }
    };
}

impl_read!(Stream, StreamKind);
impl_write!(Stream, StreamKind);
impl_read!(ReadHalf, ReadKind);
impl_write!(WriteHalf, WriteKind);
