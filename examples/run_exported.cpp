// Runs an exported network in onnxruntime: mgdn export NAME -o DIR --format onnx --size HxW
//
//   H=$ONNXRUNTIME_HOME
//   g++ -std=c++17 -O2 run_exported.cpp -I $H/include -L $H/lib -lonnxruntime -o run_exported
//   ./run_exported NAME.onnx infrared.pgm visible.ppm fused.pgm
//
// Pictures are binary PGM or PPM of 8 bits, in the order of the inputs in NAME.json. The result is
// what the network makes, cut off at black and white: chroma and the stretch that NAME.json
// describes are left out here.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "onnxruntime_c_api.h"

namespace {

const OrtApi* const api = OrtGetApiBase()->GetApi(ORT_API_VERSION);

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message);
}

// What a function of the API makes, released at the end of its scope.
template <typename T>
struct Owned {
  explicit Owned(void (*release)(T*)) : release(release) {}
  Owned(Owned&& other) : release(other.release), value(other.value) { other.value = nullptr; }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (value != nullptr) release(value);
  }
  void (*release)(T*);
  T* value = nullptr;
};

struct Picture {
  std::int64_t height = 0, width = 0, channels = 0;
  std::vector<float> values;  // rows, columns, channels; in [0, 1]
};

Picture read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  Picture picture;
  int most = 0;
  if (!(file >> magic >> picture.width >> picture.height >> most) || most != 255 ||
      (magic != "P5" && magic != "P6") || picture.width < 1 || picture.height < 1 ||
      picture.width > 65535 || picture.height > 65535)
    throw std::runtime_error(path + " is no binary PGM or PPM of 8 bits");
  file.get();  // the one blank after the header
  picture.channels = magic == "P5" ? 1 : 3;
  std::vector<unsigned char> bytes(picture.height * picture.width * picture.channels);
  if (!file.read(reinterpret_cast<char*>(bytes.data()), bytes.size()))
    throw std::runtime_error(path + " ends too early");
  picture.values.assign(bytes.begin(), bytes.end());
  for (float& value : picture.values) value /= 255.0f;
  return picture;
}

// Luminance of colour, or gray in all channels: as many channels as the network takes.
Picture with_channels(const Picture& picture, std::int64_t channels) {
  if (picture.channels == channels) return picture;
  Picture result{picture.height, picture.width, channels, {}};
  for (std::int64_t i = 0; i < picture.height * picture.width; ++i) {
    const float* pixel = &picture.values[i * picture.channels];
    const float gray = picture.channels == 1
                           ? pixel[0]
                           : 0.299f * pixel[0] + 0.587f * pixel[1] + 0.114f * pixel[2];
    result.values.insert(result.values.end(), channels, gray);
  }
  return result;
}

void write(const std::string& path, const float* values, const Picture& like) {
  std::ofstream file(path, std::ios::binary);
  file << (like.channels == 1 ? "P5" : "P6") << "\n"
       << like.width << " " << like.height << "\n255\n";
  for (std::int64_t i = 0; i < like.height * like.width * like.channels; ++i)
    file.put(static_cast<char>(std::lround(255.0f * std::clamp(values[i], 0.0f, 1.0f))));
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

// Shape of an input (b, h, w, c) or output; -1 where any size is taken.
std::vector<std::int64_t> shape(const OrtSession* session, std::size_t index, bool is_input) {
  Owned<OrtTypeInfo> info(api->ReleaseTypeInfo);
  check((is_input ? api->SessionGetInputTypeInfo : api->SessionGetOutputTypeInfo)(session, index,
                                                                                 &info.value));
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  check(api->CastTypeInfoToTensorInfo(info.value, &tensor));
  std::size_t rank = 0;
  check(api->GetDimensionsCount(tensor, &rank));
  std::vector<std::int64_t> sizes(rank);
  check(api->GetDimensions(tensor, sizes.data(), rank));
  return sizes;
}

void run(const std::vector<std::string>& words) {
  Owned<OrtEnv> environment(api->ReleaseEnv);
  check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "run_exported", &environment.value));
  Owned<OrtSessionOptions> options(api->ReleaseSessionOptions);
  check(api->CreateSessionOptions(&options.value));
  Owned<OrtSession> session(api->ReleaseSession);
  check(api->CreateSession(environment.value, words[0].c_str(), options.value, &session.value));
  std::size_t count = 0;
  check(api->SessionGetInputCount(session.value, &count));
  if (words.size() != count + 2)
    throw std::runtime_error("the network takes " + std::to_string(count) + " pictures");

  Owned<OrtMemoryInfo> memory(api->ReleaseMemoryInfo);
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory.value));
  std::vector<Picture> pictures;
  std::vector<Owned<OrtValue>> tensors;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) {
    const std::vector<std::int64_t> wanted = shape(session.value, i, true);
    pictures.push_back(with_channels(read(words[i + 1]), wanted[3]));
    const Picture& picture = pictures.back();
    const std::vector<std::int64_t> sizes{1, picture.height, picture.width, picture.channels};
    for (int axis = 0; axis < 3; ++axis)
      if (wanted[axis] > 0 && wanted[axis] != sizes[axis])
        throw std::runtime_error("the program takes pictures of " + std::to_string(wanted[1]) +
                                 " rows and " + std::to_string(wanted[2]) + " columns");
    names.push_back(std::string(1, static_cast<char>('a' + i)));
    tensors.emplace_back(api->ReleaseValue);
    check(api->CreateTensorWithDataAsOrtValue(
        memory.value, pictures.back().values.data(), picture.values.size() * sizeof(float),
        sizes.data(), sizes.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &tensors.back().value));
  }
  if (std::any_of(pictures.begin(), pictures.end(), [&](const Picture& picture) {
        return picture.height != pictures[0].height || picture.width != pictures[0].width;
      }))
    throw std::runtime_error("the pictures differ in size");

  std::vector<const char*> inputs;
  std::vector<const OrtValue*> values;
  for (std::size_t i = 0; i < count; ++i) {
    inputs.push_back(names[i].c_str());
    values.push_back(tensors[i].value);
  }
  const char* const output = "fused";
  Owned<OrtValue> fused(api->ReleaseValue);
  check(api->Run(session.value, nullptr, inputs.data(), values.data(), count, &output, 1,
                 &fused.value));
  float* result = nullptr;
  check(api->GetTensorMutableData(fused.value, reinterpret_cast<void**>(&result)));
  write(words.back(), result,
        {pictures[0].height, pictures[0].width, shape(session.value, 0, false)[3], {}});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: run_exported NAME.onnx PICTURE [PICTURE ...] FUSED\n";
    return 2;
  }
  try {
    run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::cerr << "run_exported: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
