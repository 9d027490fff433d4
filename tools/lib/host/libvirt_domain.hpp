// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What libvirt says of a domain: `virsh --readonly domstate --reason`, which asks libvirt and not QEMU.

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <functional>
#include <string>

namespace vmwhy::host {

/// Asks qemu:///system and calls `handler` once, from the io_context, with libvirt's words, "paused (user)";
/// "" where there is no virsh, no such domain, or no answer within the deadline (virsh is ended then).
/// Whatever is pending when the io_context goes away is dropped, and virsh ended.
void ask_domain_state(boost::asio::io_context& io, const std::string& name,
                      std::chrono::milliseconds deadline,
                      std::function<void(const std::string& state)> handler);

}  // namespace vmwhy::host
