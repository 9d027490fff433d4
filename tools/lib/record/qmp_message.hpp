// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What a client of ours heard or sent on a monitor, as a record.

#include <cstddef>
#include <cstdint>

#include "qmp/client.hpp"
#include "trace/record.hpp"

namespace vmwhy::record {

/// More of a message is not kept: a reply of megabytes is a listing that no verdict needs to its end.
inline constexpr std::size_t kMessageLimit = 1u << 20;

/// A QmpMessage of `traffic`: secrets in replies masked, cut at kMessageLimit (cut_bytes says by how much).
trace::OwnedRecord qmp_message(std::uint32_t vm, const qmp::Traffic& traffic);

}  // namespace vmwhy::record
