// SPDX-License-Identifier: BSD-2-Clause
#include "fuse_disk.hpp"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "core/unique_fd.hpp"
#include "mount.hpp"

namespace vmwhy::test {

namespace {

constexpr const char* kName = "disk.raw";
constexpr std::uint64_t kFileNode = 2;
constexpr std::size_t kMaxWrite = 128 << 10;
// A test that fails while its file system hangs waits for a QEMU that nothing can kill: not for ever.
constexpr std::chrono::minutes kLongestHang{2};

UniqueFd open_fuse() {
  UniqueFd fd(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!fd) throw std::system_error(errno, std::generic_category(), "open /dev/fuse");
  return fd;
}

template <class T>
T argument(const std::vector<char>& request) {
  T value{};
  const std::size_t there = request.size() - sizeof(fuse_in_header);
  std::memcpy(&value, request.data() + sizeof(fuse_in_header), std::min(sizeof value, there));
  return value;
}

fuse_in_header header_of(const std::vector<char>& request) {
  fuse_in_header header;
  std::memcpy(&header, request.data(), sizeof header);
  return header;
}

fuse_attr attributes(std::uint64_t node) {
  fuse_attr attr{};
  attr.ino = node;
  attr.nlink = 1;
  attr.blksize = 4096;
  attr.mode = node == kFileNode ? S_IFREG | 0600 : S_IFDIR | 0700;
  if (node == kFileNode) {
    attr.size = FuseDisk::kBytes;
    attr.blocks = FuseDisk::kBytes / 512;
  }
  return attr;
}

}  // namespace

class FuseDisk::Server {
 public:
  explicit Server(const std::filesystem::path& target)
      : fd_(open_fuse()),
        wake_(::eventfd(0, EFD_CLOEXEC)),
        mount_("vmwhy-test", target, "fuse",
               "fd=" + std::to_string(fd_.get()) + ",rootmode=40000,user_id=0,group_id=0,allow_other"),
        data_(kBytes),
        thread_([this] { serve(); }) {}

  ~Server() {
    set(false, false);
    {
      const std::lock_guard lock(mutex_);
      end_ = true;
    }
    wake();
    thread_.join();
  }

  void set(std::optional<bool> attributes, std::optional<bool> data) {
    {
      const std::lock_guard lock(mutex_);
      hangs_since_ = std::chrono::steady_clock::now();
      if (attributes) hang_attributes_ = *attributes;
      if (data) hang_data_ = *data;
    }
    wake();
  }

  bool hung() const {
    const std::lock_guard lock(mutex_);
    return !held_.empty();
  }

  const std::filesystem::path& path() const { return mount_.path(); }

  std::atomic<int> write_error{0}, allocation_error{ENOSYS};
  std::atomic<bool> short_writes{false};

 private:
  void wake() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto sent = ::write(wake_.get(), &one, sizeof one);
  }

  bool to_hold(std::uint32_t opcode) const {
    switch (opcode) {
      case FUSE_GETATTR:
      case FUSE_STATFS:
        return hang_attributes_;
      case FUSE_READ:
      case FUSE_WRITE:
      case FUSE_FSYNC:
        return hang_data_;
      default:
        return false;
    }
  }

  void serve() {
    for (;;) {
      pollfd fds[2] = {{fd_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
      constexpr int kLookAgainMs = 1000;
      ::poll(fds, 2, kLookAgainMs);
      if (fds[1].revents != 0) {
        std::uint64_t count;
        [[maybe_unused]] const auto got = ::read(wake_.get(), &count, sizeof count);
      }
      {
        const std::lock_guard lock(mutex_);
        if (end_) return;
        if (std::chrono::steady_clock::now() - hangs_since_ > kLongestHang)
          hang_attributes_ = hang_data_ = false;
        std::erase_if(held_, [&](const std::vector<char>& request) {
          if (to_hold(header_of(request).opcode)) return false;
          answer(request);
          return true;
        });
      }
      if ((fds[0].revents & POLLERR) != 0) return;
      if (fds[0].revents != 0) take();
    }
  }

  void take() {
    std::vector<char> request(kMaxWrite + 4096);
    const ssize_t got = ::read(fd_.get(), request.data(), request.size());
    if (got < static_cast<ssize_t>(sizeof(fuse_in_header))) return;
    request.resize(static_cast<std::size_t>(got));
    const std::lock_guard lock(mutex_);
    if (to_hold(header_of(request).opcode))
      held_.push_back(std::move(request));
    else
      answer(request);
  }

  void reply(const fuse_in_header& to, int error, const void* body = nullptr, std::size_t size = 0) const {
    fuse_out_header header{static_cast<std::uint32_t>(sizeof header + size), -error, to.unique};
    const iovec parts[2] = {{&header, sizeof header}, {const_cast<void*>(body), size}};
    [[maybe_unused]] const auto sent = ::writev(fd_.get(), parts, size == 0 ? 1 : 2);
  }

  template <class T>
  void reply_with(const fuse_in_header& to, const T& body) const {
    reply(to, 0, &body, sizeof body);
  }

  void answer_init(const std::vector<char>& request) const {
    const auto in = argument<fuse_init_in>(request);
    fuse_init_out out{};
    out.major = FUSE_KERNEL_VERSION;
    out.minor = std::min<std::uint32_t>(in.minor, FUSE_KERNEL_MINOR_VERSION);
    out.max_readahead = in.max_readahead;
    out.flags = in.flags & FUSE_BIG_WRITES;
    out.max_write = kMaxWrite;
    reply_with(header_of(request), out);
  }

  void answer_data(const std::vector<char>& request) {
    const auto header = header_of(request);
    if (header.opcode == FUSE_READ) {
      const auto in = argument<fuse_read_in>(request);
      const std::size_t from = std::min<std::size_t>(in.offset, kBytes);
      reply(header, 0, data_.data() + from, std::min<std::size_t>(in.size, kBytes - from));
      return;
    }
    const auto in = argument<fuse_write_in>(request);
    const std::size_t body = sizeof(fuse_in_header) + sizeof in;
    if (in.offset > kBytes || in.size > kBytes - in.offset || body + in.size > request.size())
      return reply(header, EFBIG);
    if (const int error = write_error) return reply(header, error);
    if (short_writes) return reply_with(header, fuse_write_out{in.size / 2, 0});
    std::memcpy(data_.data() + in.offset, request.data() + body, in.size);
    reply_with(header, fuse_write_out{in.size, 0});
  }

  void answer(const std::vector<char>& request) {
    const auto header = header_of(request);
    switch (header.opcode) {
      case FUSE_INIT:
        return answer_init(request);
      case FUSE_LOOKUP: {
        const char* name = request.data() + sizeof(fuse_in_header);
        if (std::string_view(name) != kName) return reply(header, ENOENT);
        fuse_entry_out out{};
        out.nodeid = kFileNode;
        out.attr = attributes(kFileNode);
        return reply_with(header, out);
      }
      case FUSE_GETATTR:
      case FUSE_SETATTR: {
        // Valid for no time: each stat comes here.
        fuse_attr_out out{};
        out.attr = attributes(header.nodeid);
        return reply_with(header, out);
      }
      case FUSE_OPEN:
      case FUSE_OPENDIR: {
        fuse_open_out out{};
        out.open_flags = header.opcode == FUSE_OPEN ? FOPEN_DIRECT_IO : 0;
        return reply_with(header, out);
      }
      case FUSE_STATFS: {
        fuse_statfs_out out{};
        out.st = {kBytes / 4096, kBytes / 8192, kBytes / 8192, 1024, 1022, 4096, 255, 4096, 0, {}};
        return reply_with(header, out);
      }
      case FUSE_READ:
      case FUSE_WRITE:
        return answer_data(request);
      case FUSE_FALLOCATE:
        return reply(header, allocation_error);
      case FUSE_FSYNC:
      case FUSE_FLUSH:
      case FUSE_RELEASE:
      case FUSE_RELEASEDIR:
      case FUSE_READDIR:
        return reply(header, 0);
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
      case FUSE_INTERRUPT:
        return;  // They have no reply.
      default:
        return reply(header, ENOSYS);
    }
  }

  UniqueFd fd_, wake_;
  Mount mount_;
  std::vector<char> data_;
  mutable std::mutex mutex_;
  std::vector<std::vector<char>> held_;
  bool hang_attributes_ = false, hang_data_ = false, end_ = false;
  std::chrono::steady_clock::time_point hangs_since_;
  std::thread thread_;
};

FuseDisk::FuseDisk(const std::filesystem::path& target) : server_(std::make_unique<Server>(target)) {}
FuseDisk::~FuseDisk() = default;

std::string FuseDisk::file() const {
  return server_->path() / kName;
}
void FuseDisk::hang_attributes() {
  server_->set(true, std::nullopt);
}
void FuseDisk::hang_data() {
  server_->set(std::nullopt, true);
}
void FuseDisk::let_go() {
  server_->set(false, false);
}
void FuseDisk::fail_writes(int error) {
  server_->write_error = error;
}
void FuseDisk::short_writes() {
  server_->short_writes = true;
}
void FuseDisk::fail_allocation(int error) {
  server_->allocation_error = error;
}
bool FuseDisk::hung() const {
  return server_->hung();
}

}  // namespace vmwhy::test
