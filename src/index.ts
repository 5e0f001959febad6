export { Engine } from './engine'
export type {
  Bridge,
  ChatRequest,
  EngineOptions,
  EngineStatus,
  GenerateRequest,
  Limits,
  LoadProgress,
  LogRecord,
  Metrics,
  Sampling,
  Threads,
} from './engine'
export { PillionError, PythonError, WorkerLostError } from './errors'
export type { ErrorCode } from './errors'
export type { Finish, FinishReason, Generation, Part, Result, TokenData, Usage } from './generation'
export type { PredictResult, Tensor, TypedArray } from './predict'
export { Tokenizer } from './tokenizer'
export type {
  BatchProgress,
  DecodeOptions,
  DecodeStream,
  EncodeIntoOptions,
  EncodeOptions,
  PackedTexts,
  PretrainedOptions,
  Text,
  Truncation,
} from './tokenizer'
export type { BatchEncoding, Col, Columns, Encoding, Ints, PadOptions, Padded } from './encoding'
export type { ChatMessage, Template } from './chat'
export type { Call } from './call'
export type { DoctorReport } from './cli/doctor-report'
