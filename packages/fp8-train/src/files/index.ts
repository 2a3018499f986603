export { tensorBytes, writeOrder } from './safetensors_header.ts';
export { atomicWrite } from './atomic.ts';
export {
  type CheckpointFile,
  latestCheckpoint,
  listCheckpoints,
  writeCheckpoint,
  type WriteCheckpointOptions,
} from './checkpoint.ts';
export { type Checkpoint, readCheckpoint, type ReadCheckpointOptions } from './read_checkpoint.ts';
export {
  type SafetensorsDtype,
  SafetensorsFile,
  saveSafetensors,
  type TensorInfo,
  type TensorSource,
  writeSafetensors,
} from './safetensors.ts';
