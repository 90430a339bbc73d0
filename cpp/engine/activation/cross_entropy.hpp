// Cross-entropy with its gradient over whole arrays.
#pragma once
#include <vector>

#include "engine/activation/softmax.hpp"

namespace gradstep {

// Class indices in memory that others may write at any time.
struct Targets {
  const void* data;
  bool wide;  // int64, else int32
};

// Rows of classes as in SoftmaxJob. All that may fail is done by `prepare`, nothing by `run`.
struct CrossEntropy {
  DType type;
  int64_t rows, classes, inner;
  const void* x;
  Targets targets;
  const void* weights = nullptr;  // of the classes, of `type`; null: 1
  int64_t ignored;                // the target of rows that take no part
  double smoothing;
  bool averages;  // over the weights of the rows that take part, else a sum
  void* dx;

  // Copies the targets, each checked as it is read: the kernels see the copy.
  void prepare();
  // The loss, and dx; fills `losses`.
  double run();

  int64_t wrong_row = -1, wrong_target = 0;  // found by prepare: then run may not be called
  std::vector<double> losses;                // of each row, not divided

 private:
  std::vector<int64_t> indices_;
  std::vector<unsigned char> ones_, smooth_;  // of `type`
  double taking_part_ = 0;                    // their weights
  SoftmaxJob job_{};
};

}  // namespace gradstep
