// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Takes secrets out of QMP messages: they are never to be recorded or shown.

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

#include "qmp/proto/conversation.hpp"

namespace vmwhy::tap {

inline constexpr std::string_view kMask = "***";

/// Masks the values of members that hold secrets (password, passphrase, key, data of secret objects …), what
/// stands for passwords in URLs and rbd file names, and HMP's commands that set a password.
/// @param command  The name of the command whose arguments or reply `body` is.
/// @return whether anything was masked.
bool mask(std::string_view command, boost::json::value& body);

/// The text of a message with its secrets masked: as it was heard where there are none.
std::string masked_json(const qmp::proto::Overheard& message);

/// A text that is no JSON: URLs and key=value pairs.
bool mask_text(std::string& text);

}  // namespace vmwhy::tap
