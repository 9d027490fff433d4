// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Asks all rules about one incident and makes a verdict of their opinions.

#include "causes/verdict.hpp"
#include "timeline/timeline.hpp"

namespace vmwhy::causes {

/// Deterministic: the same facts give the same verdict, byte by byte.
Incident judge(const timeline::Timeline& timeline, const timeline::Incident& incident);

TraceSummary summarize(const timeline::Timeline& timeline);

}  // namespace vmwhy::causes
