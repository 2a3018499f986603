export { type AddedToken, END_OF_TEXT, type Tokenizer, type TokenizerConfig, type TokenizerJson } from './tokenizer.ts';
export { BpeTokenizer } from './bpe.ts';
export { ByteTokenizer, type ByteTokenizerOptions } from './byte.ts';
export { HfTokenizer } from './hf.ts';
export { hasTokenizer, loadTokenizer, tokenizerFromJson } from './load.ts';
export { cutPoint } from './pretokenize.ts';
export { trainBpe, type TrainBpeOptions } from './train_bpe.ts';
