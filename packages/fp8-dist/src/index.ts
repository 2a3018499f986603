export {
  benchAllReduce,
  type BenchAllReduceOptions,
  type BenchAllReduceResult,
  type BenchCollective,
} from './bench.ts';
export { Communicator, type CommunicatorOptions } from './communicator.ts';
export { DistError, type FailureKind, ProtocolError } from './errors.ts';
export { evenShares, Group, type ReduceOptions } from './group.ts';
export { init } from './init.ts';
export * from './layers/index.ts';
export * from './mappings/index.ts';
export { initializeModelParallel, Mesh, type ModelParallelSizes } from './mesh.ts';
export type { ReduceOp } from './math/math.ts';
export { maxNumbers, sumNumbers } from './numbers.ts';
export type { Operand, Packed } from './operand.ts';
export { type Environment, readEnvironment } from './rendezvous/environment.ts';
export { newJobKey } from './rendezvous/security.ts';
export { runThreads } from './threads.ts';
export { waitAll, type Work } from './work.ts';
export { launchHelp, launchMain, parseLaunchArguments } from './launch/cli.ts';
export { launch, type LaunchOptions, type LaunchResult } from './launch/launch.ts';
export { givenUp, supervise, type SuperviseOptions, type SuperviseResult } from './launch/supervise.ts';
export {
  type Boundary,
  Pipeline,
  type PipelineProgram,
  type PipelineTrace,
} from './pipeline/executor.ts';
export { drawSvg, drawText } from './pipeline/draw.ts';
export {
  bubbleShare,
  type Compute,
  computeOrder,
  type Instruction,
  nextPlace,
  peakInFlight,
  type PipelineOp,
  type Place,
  planSchedule,
  previousPlace,
  schedule,
  type ScheduleName,
  type ScheduleOptions,
  type SchedulePlan,
  schedules,
  warmupForwards,
} from './pipeline/schedule.ts';
export { simulate, type Simulation, type SimulationOptions, type Span } from './pipeline/simulate.ts';
export * from './data_parallel/index.ts';
