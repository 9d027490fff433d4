// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Gets a connected stream socket to an address, within a deadline. Internal to Client.

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "qmp/client.hpp"

namespace vmwhy::qmp {

class Connector : public std::enable_shared_from_this<Connector> {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;
  using Handler = std::function<void(Result<Socket*>)>;

  Connector(boost::asio::io_context& io, Address address, std::chrono::milliseconds deadline);

  /// Begins; `handler` is called once, from the io_context, unless cancelled before. Its socket may be moved
  /// from.
  void start(Handler handler);
  void cancel();

 private:
  void connect_unix();
  void resolve();
  void connect_tcp(std::size_t index);
  void arm_deadline();
  void finish(Result<Socket*> result);
  Failure failure(int error) const;

  boost::asio::io_context& io_;
  Address address_;
  std::chrono::milliseconds deadline_;
  std::chrono::steady_clock::time_point end_;
  Socket socket_;
  boost::asio::steady_timer timer_;
  std::unique_ptr<boost::asio::ip::tcp::resolver> resolver_;
  std::vector<boost::asio::ip::tcp::endpoint> endpoints_;
  int last_error_ = 0;
  Handler handler_;
};

}  // namespace vmwhy::qmp
