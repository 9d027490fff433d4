// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/client.hpp"

#include <boost/asio/post.hpp>
#include <map>
#include <utility>

#include "qmp/client_impl.hpp"
#include "qmp/proto/allow_list.hpp"

namespace vmwhy::qmp {

Client::Client(boost::asio::io_context& io, ClientOptions options, Handlers handlers)
    : impl_(std::make_shared<Impl>(io, std::move(options), std::move(handlers))) {}

Client::~Client() {
  impl_->destroy();
}

// No handler may be called from within a member function, so the work begins in the io_context.
void Client::start() {
  impl_->post([](Impl& impl) { impl.connect(); });
}

void Client::close() {
  impl_->post([](Impl& impl) { impl.close_by_user(); });
}

void Client::execute(std::string command, boost::json::object arguments, ReplyHandler handler) {
  execute(std::move(command), std::move(arguments), impl_->options().command_deadline, std::move(handler));
}

void Client::execute(std::string command, boost::json::object arguments, std::chrono::milliseconds deadline,
                     ReplyHandler handler) {
  impl_->submit({std::move(command), std::move(arguments), deadline, std::move(handler)});
}

LinkState Client::state() const {
  return impl_->state();
}
const Address& Client::address() const {
  return impl_->options().address;
}
const boost::json::object& Client::version() const {
  return impl_->version();
}
std::uint32_t Client::peer_pid() const {
  return impl_->peer_pid();
}
std::size_t Client::in_flight() const {
  return impl_->in_flight();
}

bool is_read_only(std::string_view command) {
  return proto::on_allow_list(command);
}

}  // namespace vmwhy::qmp
