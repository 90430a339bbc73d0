#pragma once
#include <cstdint>
#include <map>
#include <string>

namespace gradstep::test {

// Adds name -> hash of what the active table computes.
void add_activation_hashes(std::map<std::string, uint64_t>* found);

}  // namespace gradstep::test
