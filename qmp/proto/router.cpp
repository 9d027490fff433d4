// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/proto/router.hpp"

#include <algorithm>
#include <utility>

namespace vmwhy::qmp::proto {
namespace {

std::optional<std::uint64_t> number(const boost::json::value& id) {
  if (id.is_uint64()) return id.get_uint64();
  if (id.is_int64() && id.get_int64() >= 0) return static_cast<std::uint64_t>(id.get_int64());
  return std::nullopt;
}

}  // namespace

std::uint64_t Router::add(std::string command, std::uint64_t sent_ns, std::uint64_t deadline_ns) {
  const std::uint64_t id = next_id_++;
  pending_.push_back({id, std::move(command), sent_ns, deadline_ns, false});
  return id;
}

std::optional<Pending> Router::match(const boost::json::value& id) {
  auto found = pending_.end();
  if (id.is_null()) {
    if (pending_.size() == 1) found = pending_.begin();
  } else if (const auto wanted = number(id)) {
    found = std::find_if(pending_.begin(), pending_.end(), [&](const Pending& p) { return p.id == *wanted; });
  }
  if (found == pending_.end()) {
    ++dropped_;
    return std::nullopt;
  }
  Pending out = std::move(*found);
  pending_.erase(found);
  return out;
}

std::vector<Pending> Router::expire(std::uint64_t now_ns) {
  std::vector<Pending> out;
  for (Pending& pending : pending_) {
    if (pending.overdue || pending.deadline_ns > now_ns) continue;
    pending.overdue = true;
    out.push_back(pending);
  }
  return out;
}

std::optional<std::uint64_t> Router::next_deadline() const {
  std::optional<std::uint64_t> out;
  for (const Pending& pending : pending_)
    if (!pending.overdue && (!out || pending.deadline_ns < *out)) out = pending.deadline_ns;
  return out;
}

std::vector<Pending> Router::clear() {
  std::vector<Pending> out(std::make_move_iterator(pending_.begin()),
                           std::make_move_iterator(pending_.end()));
  pending_.clear();
  return out;
}

}  // namespace vmwhy::qmp::proto
