export default (): string => 'done';
