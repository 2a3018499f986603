export { builtinCorpus, type Corpus, type CorpusOptions } from './corpus.ts';
export { evalBatches, type Batch, Sampler, type SamplerOptions, type SamplerState } from './sampler.ts';
export { memorySource, readText, type TextPiece, type TextSource, textSource } from './text_source.ts';
export {
  encodeDocuments,
  prepareTokens,
  TokenDataset,
  type TokenFileInfo,
  tokenizerHash,
  writeTokenFile,
} from './token_file.ts';
export { memoryTokens, randomTokens, splitTokens, tokenRange, type TokenSource } from './tokens.ts';
